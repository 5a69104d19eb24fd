// What a plot gets: the curve of a metric, and those of other runs, over common steps. Pure.

import type { ISeries } from "../tokens";

/** A curve: its name and points. */
export interface ICurve {
  readonly name: string;
  readonly points: ISeries;
}

/** Values over common steps: a value that a curve doesn't have is undefined, no number is null. */
export type Columns = [number[], ...(number | null | undefined)[][]];

/** Return curves over the steps of all. All is copied: the model changes its own in place. */
export function columns(curves: readonly ICurve[], positive: boolean): Columns {
  const steps =
    curves.length === 1 ? curves[0].points.steps.slice() : union(curves.map(c => c.points.steps));
  return [steps, ...curves.map(c => values(c.points, steps, positive))];
}

function union(lists: readonly (readonly number[])[]): number[] {
  return [...new Set(lists.flat())].sort((a, b) => a - b);
}

function values(points: ISeries, steps: readonly number[], positive: boolean): Columns[1] {
  // A logarithm of nothing, or less, can't be drawn.
  const drawn = (value: number | null) => (positive && value !== null && value <= 0 ? null : value);
  if (points.steps.length === steps.length) {
    return points.values.map(drawn);
  }
  const found: (number | null | undefined)[] = new Array(steps.length).fill(undefined);
  let at = 0;
  points.steps.forEach((step, i) => {
    while (steps[at] < step) {
      at++;
    }
    found[at] = drawn(points.values[i]);
  });
  return found;
}

/** Return the newest value, null if it is no number; undefined if there is none yet. */
export function latest(points: ISeries): number | null | undefined {
  return points.values[points.values.length - 1];
}

/** Return a few points from the first to the last, for those who can't see the curve. */
export function samples(points: ISeries, most: number): [number, number | null][] {
  const count = Math.min(most, points.steps.length);
  return Array.from({ length: count }, (_, i) => {
    const at = count === 1 ? 0 : Math.round((i * (points.steps.length - 1)) / (count - 1));
    return [points.steps[at], points.values[at]];
  });
}

/** Return metrics in the order they are shown: losses first, what is about learning rates last. */
export function arranged(names: Iterable<string>): string[] {
  const place = (name: string) => {
    const low = name.toLowerCase();
    if (low === "loss") {
      return 0;
    }
    return low.includes("loss") ? 1 : low === "lr" || low.includes("learning") ? 3 : 2;
  };
  return [...names].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}
