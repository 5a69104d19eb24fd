// Which lines of a long table are drawn, and in which order they are. Pure.

import { RANK } from "../protocol";
import type { RankRow } from "../protocol";

/** Height of a line in pixels: the same for all, so that nothing needs to be measured. */
export const LINE = 22;

/** Lines drawn beyond what can be seen, on both sides. */
const SPARE = 2;

/** Lines from `first` to before `end`. */
export interface ISpan {
  readonly first: number;
  readonly end: number;
}

/**
 * Return which lines to draw.
 *
 * It begins at a multiple of the spare lines, so that scrolling a little changes nothing.
 *
 * @param top - how far it is scrolled, in pixels.
 * @param height - of what can be seen, in pixels.
 * @param count - of all lines.
 * @param line - height of a line.
 */
export function span(top: number, height: number, count: number, line = LINE): ISpan {
  const seen = Math.ceil(height / line) + 1;
  const last = Math.max(0, count - seen);
  const at = Math.min(last, Math.max(0, Math.floor(top / line)));
  const first = Math.max(0, Math.floor(at / SPARE) * SPARE - SPARE);
  return { first, end: Math.min(count, first + seen + 3 * SPARE) };
}

/** Return where to scroll to, so that a line is seen whole; `top` if it is already. */
export function reveal(index: number, top: number, height: number, line = LINE): number {
  const at = index * line;
  if (at < top) {
    return at;
  }
  return at + line > top + height ? at + line - height : top;
}

/** What ranks can be ordered by. */
export type RankKey =
  | "rank"
  | "state"
  | "step"
  | "rate"
  | "data_s"
  | "compute_s"
  | "wait_s"
  | "rss"
  | "cpu"
  | "gpu"
  | "host"
  | "pid"
  | "straggler";

/** Return whether a rank has a GPU that something is known of. */
export function hasGpu(row: RankRow): boolean {
  return row[RANK.gpu] !== null || row[RANK.gpu_memory] > 0;
}

/** Return the ranks in order of a column; ties in order of ranks. */
export function ordered(rows: readonly RankRow[], key: RankKey, down: boolean): RankRow[] {
  const column = RANK[key];
  const sign = down ? -1 : 1;
  return rows.slice().sort((a, b) => {
    const x = a[column];
    const y = b[column];
    if (typeof x === "string" && typeof y === "string") {
      return sign * x.localeCompare(y) || a[RANK.rank] - b[RANK.rank];
    }
    return sign * (Number(x) - Number(y)) || a[RANK.rank] - b[RANK.rank];
  });
}
