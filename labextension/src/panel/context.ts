// What every part of a panel needs, and how it does what a button says.

import type { TranslationBundle } from "@jupyterlab/translation";
import { Signal } from "@lumino/signaling";

import type { Action } from "../protocol";
import { Refusal } from "../tokens";
import type { IFeed, IJobModel, IShellActions } from "../tokens";

/** What came of the last action, and whether it was refused. */
export interface ITold {
  readonly text: string;
  readonly refused: boolean;
}

/** Which parts of a panel are shown. */
export interface ISections {
  readonly plots: boolean;
  readonly ranks: boolean;
  readonly checkpoints: boolean;
  readonly output: boolean;
  readonly notes: boolean;
}

export const ALL_SECTIONS: ISections = {
  plots: true,
  ranks: true,
  checkpoints: true,
  output: true,
  notes: true
};

/** The panel of one job, as its parts see it. It stays the same while the panel lives. */
export interface IPanel {
  readonly feed: IFeed;
  readonly model: IJobModel;
  readonly actions: IShellActions;
  readonly trans: TranslationBundle;
  readonly compact: boolean;
  readonly sections: ISections;
  /** What ids of its elements begin with: a page may have two panels of a job. */
  readonly uid: string;
  readonly doing: Doing;
  /** Points of another run are new: draw them soon. */
  touch(): void;
  /** What was chosen in a part, by its name: a part that is folded is gone meanwhile. */
  readonly kept: Map<string, object>;
  /** Other jobs that are drawn over this one. They are let go of with the panel. */
  readonly others: Set<IJobModel>;
  /** How often two checkpoints were to be compared, and how often the timeline has asked which. */
  readonly comparing: { wanted: number; asked: number };
  /** Show the output of a rank. */
  readonly rankChosen: Signal<object, number>;
}

/** The one action that a panel waits for, and what came of the last one. */
export class Doing {
  readonly changed = new Signal<this, void>(this);

  constructor(private readonly feed: IFeed) {}

  /** What the panel waits for, "" if for nothing. */
  get verb(): string {
    return this._verb;
  }

  get told(): ITold | null {
    return this._told;
  }

  /** Do it, and say what came of it. A second click while one is answered does nothing. */
  async act(action: Omit<Action, "request_id">): Promise<void> {
    await this.run(action.verb, async () => (await this.feed.act(action)).said);
  }

  /** Wait for something, and tell its result, or why it was refused. */
  async run(verb: string, work: () => Promise<string>): Promise<void> {
    if (this._verb) {
      return;
    }
    this._verb = verb;
    this._told = null;
    this.changed.emit();
    try {
      this._told = { text: await work(), refused: false };
    } catch (error) {
      this._told = { text: reason(error), refused: true };
    } finally {
      this._verb = "";
      this.changed.emit();
    }
  }

  tell(text: string): void {
    this._told = { text, refused: false };
    this.changed.emit();
  }

  private _verb = "";
  private _told: ITold | null = null;
}

/** Return why something didn't work, as a user reads it. */
export function reason(error: unknown): string {
  if (error instanceof Refusal || error instanceof Error) {
    return error.message;
  }
  return String(error);
}
