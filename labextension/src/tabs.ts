// Jobs in the main area: a tab each, with its state in the title, there again after a reload.

import type { ILayoutRestorer, JupyterFrontEnd } from "@jupyterlab/application";
import { MainAreaWidget, WidgetTracker } from "@jupyterlab/apputils";
import type { TranslationBundle } from "@jupyterlab/translation";

import type { JobHost } from "./host";
import { lifebuoyIcon } from "./icons";
import { sign } from "./states";
import type { IFeed, IJobModel } from "./tokens";

/** The command that opens a job: what a tab is restored by. */
export const OPEN_JOB = "resilient-nb:open-job";

/** A job's panel with a title. */
export class JobTab extends MainAreaWidget<JobHost> {
  constructor(
    content: JobHost,
    private readonly model: IJobModel,
    private readonly trans: TranslationBundle
  ) {
    super({ content });
    this.addClass("rnb-JobTab");
    this.toolbar.hide();
    this.id = `resilient-nb-job-${model.id}`;
    this.title.icon = lifebuoyIcon;
    this.title.closable = true;
    model.changed.connect(this.entitle, this);
    this.entitle();
  }

  /** The job's id. */
  get job(): string {
    return this.model.id;
  }

  dispose(): void {
    if (!this.isDisposed) {
      this.model.dispose();
      super.dispose();
    }
  }

  private entitle(): void {
    const { id, head } = this.model;
    const state = head === null ? null : sign(this.trans, head.state);
    this.title.label = state === null ? id : `${state.symbol} ${id}`;
    this.title.caption = state === null ? id : this.trans.__("%1, %2", id, state.word);
  }
}

/** What makes and keeps the tabs. */
export interface ITabsOptions {
  readonly app: JupyterFrontEnd;
  readonly feed: IFeed;
  readonly trans: TranslationBundle;
  readonly restorer: ILayoutRestorer | null;
  panel(job: string): JobHost;
}

export class JobTabs {
  constructor(private readonly options: ITabsOptions) {}

  /** The job of the tab in front, if that is one of these. */
  get current(): string | null {
    const { currentWidget } = this.tracker;
    return currentWidget && currentWidget === this.options.app.shell.currentWidget
      ? currentWidget.job
      : null;
  }

  /** Open again what was open. To be called once the command is there. */
  restore(): void {
    void this.options.restorer?.restore(this.tracker, {
      command: OPEN_JOB,
      args: tab => ({ job: tab.job }),
      name: tab => tab.job
    });
  }

  /** Show a job: in its tab if it has one. */
  open(job: string): JobTab {
    const { app, feed, trans, panel } = this.options;
    let tab = this.tracker.find(other => other.job === job);
    if (tab === undefined) {
      tab = new JobTab(panel(job), feed.job(job), trans);
      void this.tracker.add(tab);
    }
    if (!tab.isAttached) {
      app.shell.add(tab, "main");
    }
    app.shell.activateById(tab.id);
    return tab;
  }

  private readonly tracker = new WidgetTracker<JobTab>({ namespace: "resilient-nb-jobs" });
}
