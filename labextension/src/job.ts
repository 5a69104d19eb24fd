// One job, as the pieces that the feed brings make it up. What is held is what came last.

import { type ISignal, Signal } from "@lumino/signaling";

import type {
  Failure,
  Injected,
  JobDelta,
  JobView,
  RankRow,
  RunView
} from "./protocol";
import { pieces } from "./saved";
import { Series } from "./series";
import type { IJobChange, IJobModel, ISaved, ISeries } from "./tokens";

type Piece = keyof IJobChange;

const PIECES: readonly Piece[] = ["head", "failures", "run", "ranks", "points", "notes"];

/**
 * What is known of one job. All who hold it share this.
 *
 * Changes are collected, and told by `flush`: once for each message. Ranks and points are changed
 * in place, since a message should cost no more than what is new in it.
 */
export class JobRecord {
  head: JobView | null = null;
  failures: readonly Failure[] = [];
  chaos: readonly Injected[] = [];
  notes: readonly string[] = [];
  run: RunView | null = null;
  readonly ranks: RankRow[] = [];
  readonly series = new Map<string, Series>();
  unknown = false;
  stale = false;
  savedAt: number | null = null;

  /** `cluster` is the id of the job's own cluster, "" if that isn't known. */
  constructor(
    readonly id: string,
    public cluster = ""
  ) {}

  /** Whether nobody holds it. */
  get unheld(): boolean {
    return this._holders.size === 0;
  }

  /** Return a model for one more holder. */
  hold(released: () => void): IJobModel {
    const model = new HeldJob(this, () => {
      this._holders.delete(model);
      released();
    });
    this._holders.add(model);
    return model;
  }

  /** Show what a notebook's file has, until the first piece comes. */
  showSaved(saved: ISaved): void {
    this._saved = saved;
    if (this.head === null) {
      this._takeSaved();
    }
  }

  /** Take what is new. The same piece again changes nothing. */
  apply(delta: JobDelta): void {
    if (delta.full) {
      this._clear();
    }
    this.unknown = false;
    this._take(delta);
  }

  /** The cluster has no such job. What is shown stays. */
  setUnknown(): void {
    if (!this.unknown) {
      this.unknown = true;
      this._changed.add("head");
    }
  }

  /** Forget what a cluster has told: now there is another one. */
  reset(): void {
    this._clear();
    this.unknown = false;
    this._takeSaved();
  }

  /** Tell the holders what has changed since the last time, if anything has. */
  flush(): void {
    if (this._changed.size === 0) {
      return;
    }
    const changed = Object.fromEntries(PIECES.map(piece => [piece, this._changed.has(piece)]));
    this._changed.clear();
    for (const holder of [...this._holders]) {
      holder.emit(changed as unknown as IJobChange);
    }
  }

  private _takeSaved(): void {
    if (this._saved !== null) {
      this.stale = true;
      this.savedAt = this._saved.at;
      try {
        this._take(pieces(this._saved.view));
      } catch (error) {
        console.warn("resilient_nb: what a notebook's file says of a job can't be read:", error);
      }
    }
  }

  private _take(delta: JobDelta): void {
    if (delta.head !== null) {
      this.head = delta.head;
      this._changed.add("head");
    }
    if (delta.failures !== null) {
      this.failures = delta.failures;
      this._changed.add("failures");
    }
    if (delta.chaos !== null) {
      this.chaos = delta.chaos;
      this._changed.add("failures");
    }
    if (delta.notes !== null) {
      this.notes = delta.notes;
      this._changed.add("notes");
    }
    if (delta.run !== null) {
      this.run = delta.run;
      this._changed.add("run");
    }
    this._takeRanks(delta.ranks, delta.world);
    this._takePoints(delta.points);
  }

  private _takeRanks(rows: readonly RankRow[], world: number | null): void {
    for (const row of rows) {
      const rank = row[0];
      while (this.ranks.length < rank) {
        this.ranks.push(unseen(this.ranks.length));
      }
      this.ranks[rank] = row;
    }
    if (world !== null && world < this.ranks.length) {
      this.ranks.length = world;
      this._changed.add("ranks");
    }
    if (rows.length > 0) {
      this._changed.add("ranks");
    }
  }

  private _takePoints(points: JobDelta["points"]): void {
    for (const [name, fresh] of Object.entries(points)) {
      let series = this.series.get(name);
      if (series === undefined) {
        series = new Series();
        this.series.set(name, series);
      }
      series.merge(fresh);
      this._changed.add("points");
    }
  }

  private _clear(): void {
    this.head = null;
    this.failures = [];
    this.chaos = [];
    this.notes = [];
    this.run = null;
    this.ranks.length = 0;
    this.series.clear();
    this.stale = false;
    this.savedAt = null;
    PIECES.forEach(piece => this._changed.add(piece));
  }

  private _saved: ISaved | null = null;
  private readonly _changed = new Set<Piece>();
  private readonly _holders = new Set<HeldJob>();
}

/** The model that one holder has: a view of the record that ends with `dispose`. */
class HeldJob implements IJobModel {
  constructor(
    private readonly _record: JobRecord,
    private readonly _release: () => void
  ) {
    this.changed = this._changed = new Signal<IJobModel, IJobChange>(this);
  }

  readonly changed: ISignal<IJobModel, IJobChange>;

  get id(): string {
    return this._record.id;
  }

  get head(): JobView | null {
    return this._record.head;
  }

  get failures(): readonly Failure[] {
    return this._record.failures;
  }

  get chaos(): readonly Injected[] {
    return this._record.chaos;
  }

  get notes(): readonly string[] {
    return this._record.notes;
  }

  get run(): RunView | null {
    return this._record.run;
  }

  get ranks(): readonly RankRow[] {
    return this._record.ranks;
  }

  get series(): ReadonlyMap<string, ISeries> {
    return this._record.series;
  }

  get unknown(): boolean {
    return this._record.unknown;
  }

  get stale(): boolean {
    return this._record.stale;
  }

  get savedAt(): number | null {
    return this._record.savedAt;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  emit(change: IJobChange): void {
    this._changed.emit(change);
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    Signal.clearData(this);
    this._release();
  }

  private readonly _changed: Signal<IJobModel, IJobChange>;
  private _isDisposed = false;
}

// A rank that nothing is known of yet, though a later one is.
function unseen(rank: number): RankRow {
  return [rank, "", "", 0, 0, null, 0, 0, 0, "", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, null, 0, false];
}
