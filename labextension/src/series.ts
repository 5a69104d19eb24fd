// The points of one metric: bounded, whatever a job logs, and the same however often a piece comes.

import type { ISeries } from "./tokens";

/** More points than a plot has pixels for; above that they are thinned to at most half. */
export const MOST_POINTS = 2400;

type Point = readonly [number, number | null];

/**
 * Steps and values in columns.
 *
 * A stretch is `stride` steps; its first point stands for it. So what is left covers the run
 * evenly, and doesn't depend on how the points came in pieces. The newest point is always there.
 */
export class Series implements ISeries {
  readonly steps: number[] = [];
  readonly values: (number | null)[] = [];

  /** Take points in order of their steps; they replace all known ones from the first step on. */
  merge(points: readonly Point[]): void {
    const first = points[0];
    if (first === undefined) {
      return;
    }
    this._cut(first[0]);
    for (const [step, value] of points) {
      this._drop();
      this._extra = !this._opens(step);
      this.steps.push(step);
      this.values.push(typeof value === "number" && Number.isFinite(value) ? value : null);
      if (this.steps.length > MOST_POINTS) {
        this._thin();
      }
    }
  }

  // Forget what is known from a step on.
  private _cut(step: number): void {
    const at = firstFrom(this.steps, step);
    if (at === this.steps.length) {
      return;
    }
    this.steps.length = at;
    this.values.length = at;
    this._extra = false;
    if (at === 0) {
      this._stride = 1;
    }
  }

  // The newest point goes when a newer one comes, unless it stands for its stretch.
  private _drop(): void {
    if (this._extra) {
      this.steps.pop();
      this.values.pop();
    }
  }

  private _opens(step: number): boolean {
    const before = this.steps[this.steps.length - 1];
    return (
      before === undefined ||
      Math.floor(step / this._stride) !== Math.floor(before / this._stride)
    );
  }

  private _thin(): void {
    const steps = this.steps.splice(0);
    const values = this.values.splice(0);
    const newest = steps.length - 1;
    let kept: number[] = [];
    do {
      this._stride *= 2;
      kept = spaced(steps, this._stride);
    } while (kept.length > MOST_POINTS / 2);
    this._extra = kept[kept.length - 1] !== newest;
    for (const index of this._extra ? [...kept, newest] : kept) {
      this.steps.push(steps[index] as number);
      this.values.push(values[index] as number | null);
    }
  }

  private _stride = 1;
  /** The last point is there only because it is the newest. */
  private _extra = false;
}

/** Return the indices of those that begin a stretch. */
function spaced(steps: readonly number[], stride: number): number[] {
  const kept: number[] = [];
  let before = NaN;
  steps.forEach((step, index) => {
    const stretch = Math.floor(step / stride);
    if (stretch !== before) {
      kept.push(index);
      before = stretch;
    }
  });
  return kept;
}

/** Return the index of the first step that isn't below `step`. */
function firstFrom(steps: readonly number[], step: number): number {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((steps[middle] as number) < step) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}
