// Which jobs the sidebar lists. Pure.

import type { BoardRow, JobState } from "../protocol";

/** Whose jobs. */
export type Scope = "mine" | "groups" | "everyone";

/** What the chips above the list stand for, in the order of the list. */
export const CHIPS = ["running", "queued", "failed", "done"] as const;
export type Chip = (typeof CHIPS)[number];

/** What the user wants to see. No chip means every state. */
export interface IFilter {
  readonly text: string;
  readonly scope: Scope;
  readonly chips: ReadonlySet<Chip>;
}

/** Who looks. `name` is "" until it is known; then everything counts as theirs. */
export interface IViewer {
  readonly name: string;
  groupsOf(user: string): readonly string[];
}

/** What is listed. `counts` are of the scope and text, whatever chips are pressed. */
export interface IListed {
  readonly rows: readonly BoardRow[];
  readonly counts: Readonly<Record<Chip, number>>;
  /** Jobs that would be there with scope Everyone. */
  readonly others: number;
}

const CHIP_OF: Readonly<Record<JobState, Chip>> = {
  starting: "running",
  running: "running",
  stopping: "running",
  queued: "queued",
  failed: "failed",
  succeeded: "done",
  cancelled: "done"
};

/** Return the chip that a state belongs to. */
function chipOf(state: JobState): Chip {
  return CHIP_OF[state];
}

/** Return what to list of all rows; their order stays. */
export function listed(rows: readonly BoardRow[], filter: IFilter, viewer: IViewer): IListed {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  const belongs = inScope(filter.scope, viewer);
  const counts: Record<Chip, number> = { running: 0, queued: 0, failed: 0, done: 0 };
  const shown: BoardRow[] = [];
  let others = 0;
  for (const row of rows) {
    if (words.length > 0 && !matches(row, words)) {
      continue;
    }
    if (!belongs(row)) {
      others += 1;
      continue;
    }
    const chip = chipOf(row.state);
    counts[chip] += 1;
    if (filter.chips.size === 0 || filter.chips.has(chip)) {
      shown.push(row);
    }
  }
  return { rows: shown, counts, others };
}

/** Return the chips with one of them pressed or released. */
export function toggled(chips: ReadonlySet<Chip>, chip: Chip): ReadonlySet<Chip> {
  const next = new Set(chips);
  if (!next.delete(chip)) {
    next.add(chip);
  }
  return next;
}

/** Return how far a job is, from 0 to 1; null if nobody knows. */
export function progress(row: BoardRow): number | null {
  return row.total_steps ? Math.min(1, row.step / row.total_steps) : null;
}

function inScope(scope: Scope, viewer: IViewer): (row: BoardRow) => boolean {
  if (scope === "everyone" || viewer.name === "") {
    return () => true;
  }
  if (scope === "mine") {
    return row => row.user === viewer.name;
  }
  const groups = new Set(viewer.groupsOf(viewer.name));
  return row => row.user === viewer.name || groups.has(row.group);
}

function matches(row: BoardRow, words: readonly string[]): boolean {
  const parts = [row.id, row.label, row.user, row.group, row.state, row.priority, row.notebook];
  const text = [...parts, row.reason, row.cause].join(" ").toLowerCase();
  return words.every(word => text.includes(word));
}
