// The panel of a job: a widget for a cell's output or a tab. It outlives kernels and clusters.

import type { TranslationBundle } from "@jupyterlab/translation";
import type { Message } from "@lumino/messaging";
import { Signal } from "@lumino/signaling";
import { Widget } from "@lumino/widgets";
import { render } from "preact";

import type { JobView } from "../protocol";
import { isFinal } from "../states";
import type { Contact, IFeed, IJobChange, IJobModel, ISaved, IShellActions } from "../tokens";
import { ALL_SECTIONS, Doing } from "./context";
import type { IPanel, ISections } from "./context";
import { Guard } from "./guard";
import { Job } from "./job";
import { Pace } from "./pace";
import { Versions, onlyMoved } from "./versions";
import type { IVersions } from "./versions";

const PIECES = ["head", "failures", "run", "ranks", "points", "notes"] as const;

/** How often a second it is drawn, at most, unless it is said. */
const PER_SECOND = 4;

export interface IJobPanelOptions {
  readonly feed: IFeed;
  readonly id: string;
  /** The job as it was when the notebook was saved. */
  readonly saved: ISaved | null;
  /** Id of the job's own cluster; left out, it is the one that is followed. */
  readonly cluster?: string;
  readonly actions: IShellActions;
  readonly trans: TranslationBundle;
  /** In a cell's output: lower, with less at once. */
  readonly compact: boolean;
  readonly refresh?: number;
  readonly sections?: Partial<ISections>;
}

export class JobPanel extends Widget {
  constructor(options: IJobPanelOptions) {
    super();
    const { feed, id, saved, cluster, actions, trans, compact, refresh = PER_SECOND } = options;
    this.addClass("rnb-Panel");
    this.toggleClass("rnb-mod-compact", compact);
    this.node.tabIndex = -1;
    this._model = feed.job(id, saved, cluster);
    this._panel = {
      feed,
      model: this._model,
      actions,
      trans,
      compact,
      sections: { ...ALL_SECTIONS, ...options.sections },
      uid: `rnb-${JobPanel._count++}`,
      doing: new Doing(feed),
      touch: () => this._bump("points"),
      kept: new Map(),
      others: new Set(),
      comparing: { wanted: 0, asked: 0 },
      rankChosen: new Signal<object, number>(this)
    };
    this._pace = new Pace(() => this._draw(), refresh);
    this._pace.paused = true; // until somebody sees it
    this._since = feed.now();
    this._model.changed.connect(this._onChange, this);
    feed.contactChanged.connect(this._onContact, this);
    this._watch();
  }

  /** The job. */
  get model(): IJobModel {
    return this._model;
  }

  /** Have two checkpoints chosen in the timeline, to see what differs. */
  compare(): void {
    const { comparing, doing, sections, trans } = this._panel;
    const { run } = this._model;
    if (!sections.checkpoints) {
      doing.tell(trans.__("Checkpoints aren't shown: have them shown in the settings."));
    } else if (run !== null && run.checkpoints.length < 2) {
      doing.tell(trans.__("There are no two checkpoints yet to compare."));
    } else {
      comparing.wanted += 1;
      this._bump("run");
    }
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._pace.dispose();
    this._observer?.disconnect();
    document.removeEventListener("visibilitychange", this._see);
    window.clearInterval(this._ticking);
    window.clearTimeout(this._later);
    render(null, this.node);
    Signal.clearData(this);
    this._forget();
    this._model.dispose();
    super.dispose();
  }

  protected onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    // Not before: its parts scroll to where something is, and measure how wide they are.
    this._draw();
    this._see();
  }

  protected onBeforeDetach(message: Message): void {
    super.onBeforeDetach(message);
    this._setSeen(false);
  }

  protected onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._see();
  }

  protected onBeforeHide(message: Message): void {
    super.onBeforeHide(message);
    this._setSeen(false);
  }

  private _watch(): void {
    this.node.addEventListener("keydown", keepKeys);
    document.addEventListener("visibilitychange", this._see);
    if (typeof IntersectionObserver !== "undefined") {
      this._observer = new IntersectionObserver(entries => {
        this._onScreen = entries[entries.length - 1].isIntersecting;
        this._see();
      });
      this._observer.observe(this.node);
    }
  }

  /** Find out whether anybody sees it. */
  private readonly _see = () => {
    this._setSeen(this.isVisible && this._onScreen && !document.hidden);
  };

  private _setSeen(seen: boolean): void {
    if (seen === this._seen || this.isDisposed) {
      return;
    }
    this._seen = seen;
    window.clearInterval(this._ticking);
    if (seen) {
      this._ticking = window.setInterval(() => this._tick(), 1000);
      this._pace.paused = false;
      this._pace.ask();
    } else {
      // Once more, so that its parts know it and ask for nothing.
      this._draw();
      this._pace.paused = true;
    }
  }

  /** Times that are shown go on even if nothing is told. */
  private _tick(): void {
    const head = this._model.head;
    if (head !== null && !isFinal(head.state)) {
      this._bump("clock");
    }
  }

  private _onChange(_: IJobModel, change: IJobChange): void {
    const pieces = PIECES.filter(piece => change[piece]);
    const { head } = this._model;
    const moved = change.head && onlyMoved(this._head, head);
    this._head = head;
    this._bump(...pieces);
    if (change.head && !moved) {
      this._bump("facts");
    }
  }

  private _onContact(feed: IFeed, contact: Contact): void {
    this._since = contact.kind === "offline" ? contact.since : feed.now();
    this._bump("head", "facts");
  }

  private _bump(...pieces: (keyof IVersions)[]): void {
    this._versions.renew(pieces);
    this._pace.ask();
  }

  /** Return what to draw of the job; what has its turn later is asked for then. */
  private _taken(): IVersions {
    const { versions, wait } = this._versions.take(performance.now());
    window.clearTimeout(this._later);
    if (wait !== null) {
      this._later = window.setTimeout(() => this._pace.ask(), wait);
    }
    return versions;
  }

  /** Let go of what was chosen; it may also be why the panel can't be drawn. */
  private readonly _forget = () => {
    this._panel.kept.clear();
    this._panel.others.forEach(other => other.dispose());
    this._panel.others.clear();
  };

  private _draw(): void {
    if (this.isDisposed) {
      return;
    }
    const props = {
      panel: this._panel,
      versions: this._taken(),
      contact: this._panel.feed.contact,
      since: this._since,
      seen: this._seen
    };
    const { trans } = this._panel;
    render(
      <Guard trans={trans} version={props.versions.facts} caught={this._forget}>
        <Job {...props} />
      </Guard>,
      this.node
    );
  }

  private static _count = 0;
  private readonly _model: IJobModel;
  private readonly _panel: IPanel;
  private readonly _pace: Pace;
  private readonly _versions = new Versions();
  /** As it was told last. */
  private _head: JobView | null = null;
  private _later = 0;
  private _observer: IntersectionObserver | null = null;
  private _onScreen = typeof IntersectionObserver === "undefined";
  private _seen = false;
  private _since: number;
  private _ticking = 0;
}

/** A notebook takes plain keys for commands, such as X to cut the cell: but not those of here. */
function keepKeys(event: KeyboardEvent): void {
  if (!event.ctrlKey && !event.metaKey && !event.altKey && event.key !== "Escape") {
    event.stopPropagation();
  }
}
