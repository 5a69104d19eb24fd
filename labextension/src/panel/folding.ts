// Which failures are shown whole, and which are folded into one line. Pure.

import type { Failure } from "../protocol";

/** A failure, and how many equal ones were before it in a row. */
export interface IFold {
  readonly failure: Failure;
  readonly count: number;
}

/** Return failures, the newest first, with equal ones in a row made one: the newest of them. */
export function folded(failures: readonly Failure[]): IFold[] {
  const folds: IFold[] = [];
  for (let i = failures.length - 1; i >= 0; i--) {
    const failure = failures[i];
    const last = folds[folds.length - 1];
    if (last !== undefined && alike(last.failure, failure)) {
      folds[folds.length - 1] = { failure: last.failure, count: last.count + 1 };
    } else {
      folds.push({ failure, count: 1 });
    }
  }
  return folds;
}

function alike(a: Failure, b: Failure): boolean {
  return (
    a.cause === b.cause &&
    a.decision === b.decision &&
    a.rank === b.rank &&
    a.error?.type === b.error?.type &&
    a.error?.message === b.error?.message &&
    // The text of a failure without an exception often has times and sizes in it.
    (a.error !== null || a.evidence.length === b.evidence.length)
  );
}
