// The sidebar as JupyterLab knows it: holds what the user has chosen, and draws what is new.

import type { TranslationBundle } from "@jupyterlab/translation";
import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import { render } from "preact";

import { lifebuoyIcon } from "../icons";
import { Pace } from "../panel/pace";
import type { BoardRow } from "../protocol";
import type { Preferences } from "../settings";
import type { IFeed, IShellActions } from "../tokens";
import { Sidebar } from "./Sidebar";
import { badge } from "./badge";
import type { IFilter, Scope } from "./filter";

/** What the sidebar asks of the application. */
export interface ISidebarOptions {
  readonly feed: IFeed;
  readonly actions: IShellActions;
  readonly preferences: Preferences;
  readonly trans: TranslationBundle;
  /** Ask, and cancel a job. */
  cancel(job: string): void;
}

export class SidebarWidget extends Widget {
  constructor(private readonly options: ISidebarOptions) {
    super();
    const { feed, preferences, trans } = options;
    this.id = "resilient-nb-sidebar";
    this.addClass("rnb-Sidebar");
    this.node.setAttribute("role", "region");
    this.node.setAttribute("aria-label", "resilient_nb");
    this.title.icon = lifebuoyIcon;
    this.title.caption = trans.__("resilient_nb: jobs");
    this.scope = preferences.now.scope;
    this.filter = { text: "", scope: this.scope, chips: new Set() };
    this.pace = new Pace(() => this.draw(), preferences.now.refresh);
    feed.board.changed.connect(this.onNews, this);
    feed.contactChanged.connect(this.onNews, this);
    preferences.changed.connect(this.onPreferences, this);
    this.pace.paused = true;
  }

  /** The job that is selected in the list. */
  get selected(): string | null {
    return this._selected;
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.pace.dispose();
    this.options.feed.board.changed.disconnect(this.onNews, this);
    this.options.feed.contactChanged.disconnect(this.onNews, this);
    this.options.preferences.changed.disconnect(this.onPreferences, this);
    render(null, this.node);
    super.dispose();
  }

  protected onAfterAttach(_: Message): void {
    this.seen();
  }

  protected onAfterShow(_: Message): void {
    this.seen();
  }

  protected onBeforeHide(_: Message): void {
    this.pace.paused = true;
  }

  protected onBeforeDetach(_: Message): void {
    this.pace.paused = true;
  }

  protected onActivateRequest(_: Message): void {
    this.draw();
    this.node.querySelector<HTMLElement>("[role=listbox]")?.focus();
  }

  private seen(): void {
    if (this.isVisible) {
      this.pace.paused = false;
      this.pace.ask();
    }
  }

  private onNews(): void {
    const { feed, trans } = this.options;
    const { contact } = feed;
    if (contact.kind === "live") {
      this.lostAt = null;
      this.live = true;
    } else if (this.live) {
      this.live = false;
      this.lostAt = contact.kind === "offline" ? contact.since : feed.now();
    }
    const { text, caption } = badge(feed.board.rows, feed.board.alerts, trans);
    if (this.title.caption !== caption) {
      this.title.caption = caption;
      // JupyterLab has put something of its own there.
      this.title.dataset = { ...this.title.dataset, "rnb-badge": text };
    }
    this.pace.ask();
  }

  private onPreferences(): void {
    const { scope, refresh } = this.options.preferences.now;
    if (scope !== this.scope) {
      this.scope = scope;
      this.filter = { ...this.filter, scope };
    }
    const { paused } = this.pace;
    this.pace.dispose();
    this.pace = new Pace(() => this.draw(), refresh);
    this.pace.paused = paused;
    this.pace.ask();
  }

  private draw(): void {
    const { feed, preferences, trans, cancel } = this.options;
    render(
      <Sidebar
        board={feed.board}
        contact={feed.contact}
        lostAt={this.lostAt}
        viewer={{ name: feed.user, groupsOf: user => feed.board.groupsOf(user) }}
        filter={this.filter}
        selected={this._selected}
        sections={preferences.now.sidebar}
        now={Math.floor(feed.now())}
        trans={trans}
        onFilter={this.onFilter}
        onSelect={this.onSelect}
        onOpen={this.onOpen}
        onCell={this.onCell}
        onCancel={cancel}
      />,
      this.node
    );
  }

  // What the user does is drawn at once.
  private readonly onFilter = (filter: IFilter) => {
    this.filter = filter;
    this.draw();
  };

  private readonly onSelect = (job: string) => {
    this._selected = job;
    this.draw();
  };

  private readonly onCell = (row: BoardRow) =>
    this.options.actions.goToCell?.(row.notebook, row.cell_id);

  private readonly onOpen = (job: string) => this.options.actions.openJob?.(job);

  private filter: IFilter;
  private scope: Scope;
  private pace: Pace;
  private live = false;
  private lostAt: number | null = null;
  private _selected: string | null = null;
}
