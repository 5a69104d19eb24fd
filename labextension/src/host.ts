// The place of a job's panel: in a cell's output or a tab.

import { Panel } from "@lumino/widgets";

import type { JobPanel } from "./panel";
import type { IPreferences, Preferences } from "./settings";

/** Holds a panel, and makes it anew when it is set otherwise what panels show. */
export class JobHost extends Panel {
  /**
   * @param job - its id, by which commands know what they are about.
   * @param make - returns a new panel by what is set.
   */
  constructor(
    readonly job: string,
    private readonly preferences: Preferences,
    private readonly make: (set: IPreferences) => JobPanel
  ) {
    super();
    this.addClass("rnb-Place");
    this.node.dataset["job"] = job;
    this.set = preferences.now;
    this.addWidget(make(this.set));
    preferences.changed.connect(this.onPreferences, this);
  }

  /** Have two checkpoints of the job's run chosen, to see what differs. */
  compare(): void {
    (this.widgets[0] as JobPanel).compare();
  }

  dispose(): void {
    this.preferences.changed.disconnect(this.onPreferences, this);
    super.dispose();
  }

  private onPreferences(): void {
    const { refresh, panel } = this.preferences.now;
    if (refresh !== this.set.refresh || JSON.stringify(panel) !== JSON.stringify(this.set.panel)) {
      const old = this.widgets[0];
      this.set = this.preferences.now;
      // The new one first: what is known of the job is then kept.
      this.addWidget(this.make(this.set));
      old?.dispose();
    }
  }

  private set: IPreferences;
}
