// What a row of the list says below the job's name. Pure.

import type { TranslationBundle } from "@jupyterlab/translation";

import * as format from "../format";
import type { BoardRow } from "../protocol";
import { about, duration } from "../times";

/**
 * Return what matters most of a job now, on one line.
 *
 * @param now - the scheduler's time, in seconds since 1970.
 */
export function line(trans: TranslationBundle, row: BoardRow, now: number): string {
  switch (row.state) {
    case "queued":
      return queued(trans, row, now);
    case "starting":
      return format.joined(workers(trans, row.held || row.workers), reason(row));
    case "running":
    case "stopping":
      return running(trans, row);
    case "failed":
      return format.joined(format.oneLine(row.cause), reason(row)) || spent(trans, row);
    case "succeeded":
    case "cancelled":
      return format.joined(spent(trans, row), reason(row));
  }
}

function queued(trans: TranslationBundle, row: BoardRow, now: number): string {
  const place = row.position === null ? "" : trans.__("place %1", row.position);
  const left = row.starts_at === null ? null : row.starts_at - now;
  let when = "";
  if (left !== null) {
    when = left > 0 ? trans.__("starts in %1", about(trans, left)) : trans.__("starts any moment");
  }
  const guess = when && row.starts_guess ? trans.__("%1 (a guess)", when) : when;
  return format.joined(place, guess, reason(row));
}

function running(trans: TranslationBundle, row: BoardRow): string {
  const far =
    row.step > 0 || row.total_steps ? format.progress(trans, row.step, row.total_steps) : "";
  const left = row.eta_s === null ? "" : trans.__("%1 left", duration(trans, row.eta_s));
  const size = far ? "" : workers(trans, row.held || row.workers);
  return format.joined(far, left, format.rate(trans, row.rate), size, reason(row));
}

function workers(trans: TranslationBundle, count: number): string {
  return trans._n("%1 worker", "%1 workers", count);
}

function spent(trans: TranslationBundle, row: BoardRow): string {
  const { started_at: from, ended_at: to } = row;
  const took = from === null || to === null ? "" : trans.__("took %1", duration(trans, to - from));
  return format.joined(row.step > 0 ? format.steps(trans, row.step) : "", took);
}

function reason(row: BoardRow): string {
  return format.oneLine(row.reason);
}
