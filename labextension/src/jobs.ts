// All jobs that somebody looks at, and which of them are to be followed.

import { JobRecord } from "./job";
import type { JobDelta } from "./protocol";
import type { IJobModel, ISaved } from "./tokens";

/** A job that nobody holds any more is followed for so long, in ms: views are often redrawn. */
const LINGER = 5000;
/** Of so many jobs the server tells every detail: of those that were opened last. */
const MOST_JOBS = 1000;

/**
 * The jobs that are held, with what is known of each.
 *
 * Job ids are unique within a cluster only. A job of another cluster than the one that is followed
 * counts as unknown.
 *
 * @param changed - told when other jobs are to be followed.
 */
export class Jobs {
  constructor(private readonly _changed: () => void) {}

  /** Return a model of a job; the same record serves all its holders. */
  hold(id: string, saved: ISaved | null, cluster: string): IJobModel {
    const record = this._found(id, cluster || this._cluster);
    window.clearTimeout(this._lingering.get(record));
    this._lingering.delete(record);
    if (saved !== null) {
      record.showSaved(saved);
      record.flush();
    }
    return record.hold(() => this._released(record));
  }

  /** Follow another cluster from now on, or learn which one it is. */
  follow(cluster: string): void {
    const before = this._cluster;
    this._cluster = cluster;
    for (const record of this._all()) {
      if (before !== "") {
        record.reset();
      }
      record.cluster ||= cluster;
      this._checkCluster(record);
    }
    this._changed();
  }

  /** Take what is new. What nobody has asked for any more may still be on its way. */
  take(deltas: readonly JobDelta[], unknown: readonly string[]): void {
    for (const delta of deltas) {
      this._followed(delta.job).forEach(record => record.apply(delta));
    }
    for (const id of unknown) {
      this._followed(id).forEach(record => record.setUnknown());
    }
  }

  /** Tell the holders what has changed. */
  flush(): void {
    this._all().forEach(record => record.flush());
  }

  /** Return the ids of the jobs of which every detail is wanted. */
  wished(): string[] {
    const ids = [...this._records.keys()].filter(id => this._followed(id).length > 0);
    return ids.slice(-MOST_JOBS);
  }

  dispose(): void {
    this._lingering.forEach(timer => window.clearTimeout(timer));
    this._lingering.clear();
    this._isDisposed = true;
  }

  private _found(id: string, cluster: string): JobRecord {
    const records = this._records.get(id) ?? [];
    const known = records.find(record => record.cluster === cluster);
    if (known !== undefined) {
      return known;
    }
    const record = new JobRecord(id, cluster);
    this._records.set(id, [...records, record]);
    this._checkCluster(record);
    this._changed();
    return record;
  }

  private _released(record: JobRecord): void {
    if (record.unheld && !this._isDisposed) {
      this._lingering.set(record, window.setTimeout(() => this._drop(record), LINGER));
    }
  }

  private _drop(record: JobRecord): void {
    this._lingering.delete(record);
    const others = (this._records.get(record.id) ?? []).filter(other => other !== record);
    if (others.length > 0) {
      this._records.set(record.id, others);
    } else {
      this._records.delete(record.id);
    }
    this._changed();
  }

  private _all(): JobRecord[] {
    return [...this._records.values()].flat();
  }

  private _followed(id: string): JobRecord[] {
    return (this._records.get(id) ?? []).filter(record => this._isFollowed(record));
  }

  // As long as one of the two clusters isn't known, they may be the same.
  private _isFollowed(record: JobRecord): boolean {
    return [this._cluster, ""].includes(record.cluster) || this._cluster === "";
  }

  private _checkCluster(record: JobRecord): void {
    if (!this._isFollowed(record)) {
      record.setUnknown();
    }
  }

  private readonly _records = new Map<string, JobRecord[]>();
  /** Timers of those that nobody holds any more. */
  private readonly _lingering = new Map<JobRecord, number>();
  /** The one that is followed, "" until that is known. */
  private _cluster = "";
  private _isDisposed = false;
}
