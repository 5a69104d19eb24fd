// Values to test with: each builder gives something whole, of which a test names what matters.

import { nullTranslator } from "@jupyterlab/translation/lib/base";

import type {
  Board,
  BoardRow,
  CheckpointView,
  Failure,
  JobDelta,
  JobView,
  News,
  RankRow,
  RunView
} from "../protocol";

export const trans = nullTranslator.load("resilient_nb");

/** What a name, a log line or an exception may contain, however it is meant. */
export const HOSTILE = "<img src=x onerror=alert(1)>\u202e</script>\x1b[31m%1 %% &amp; __proto__";

export function jobView(given: Partial<JobView> = {}): JobView {
  return {
    id: "digits#1", run: "digits", state: "running", reason: "", priority: "normal", workers: 2,
    user: "ann", submitted_at: 100, started_at: 110, ended_at: null, attempts: 1, epoch: 1,
    step: 92, total_steps: 500, rate: 4, eta_s: 102, out: [], returned: [], ranks: [], metrics: {},
    series: {}, checkpoints: [], failures: [], notes: [], label: "In [5]", max_workers: 0, held: 2,
    group: "", admin: false, after: [], position: null, starts_at: null, starts_guess: "",
    cadence: null,
    proposals: [], deadline_at: null, alerts: [], goodput: null, chaos: [], inputs: [], reads: {},
    notebook: "a.ipynb", cell_id: "c1",
    ...given
  };
}

export function boardRow(id: string, given: Partial<BoardRow> = {}): BoardRow {
  return {
    id, run: id.split("#")[0] ?? id, state: "running", user: "ann", group: "", priority: "normal",
    label: "In [5]", workers: 2, max_workers: 0, held: 2, step: 10, total_steps: 100, rate: 4,
    eta_s: 22, position: null, starts_at: null, reason: "", submitted_at: 100, started_at: 110,
    ended_at: null, attempts: 1, failures: 0, cause: "", alerts: 0, notebook: "a.ipynb",
    cell_id: "c1", starts_guess: "", ...given
  };
}

export function rankRow(rank: number, step = 10): RankRow {
  return [
    rank, "running", "host-0", 4000 + rank, step, 500, 4, 1e9, 0.9, "compute", 0.1, 0.01, 0.2,
    0.03, 0, 0.3, 2e9, 4e9, 0, 0, null, 0, false
  ];
}

export function checkpoint(step: number, given: Partial<CheckpointView> = {}): CheckpointView {
  const run = given.run ?? "digits";
  return {
    ref: `${run}@${step}`, run, step, at: 1000 + step, nbytes: 1 << 20, digest: "sha256:0123456789ab",
    parent: null, id: `${run}/${String(step).padStart(8, "0")}-e1`, path: "", tags: [],
    is_head: false, job: `${run}#1`, metrics: {}, changed: 0, written: 0, copies: [],
    replicated: "", ...given
  };
}

/** A run whose checkpoints follow each other, if they don't say otherwise. The last is the head. */
export function runOf(steps: number[], given: Partial<RunView> = {}): RunView {
  const checkpoints: CheckpointView[] = [];
  for (const step of steps) {
    checkpoints.push(checkpoint(step, { parent: checkpoints[checkpoints.length - 1]?.id ?? null }));
  }
  return {
    name: "digits", created_at: 90, head: checkpoints[checkpoints.length - 1]?.id ?? null,
    forked_from: null, tags: {}, checkpoints, jobs: ["digits#1"], active_job: null, forks: {},
    ...given
  };
}

export function failure(given: Partial<Failure> = {}): Failure {
  return {
    cause: "killed from outside", message: "Rank 1 was killed.", decision: "retry",
    reason: "It may go well.", at: 120, epoch: 1, rank: 1, step: 92, resumes_from: 80, error: null,
    host: "host-0", evidence: [], stacks: "", lost_steps: 12, lost_s: 3, down_s: 0, spent: "",
    remedy: null, ...given
  };
}

export function delta(given: Partial<JobDelta> = {}): JobDelta {
  return {
    job: "digits#1", full: false, head: null, failures: null, chaos: null, notes: null, run: null,
    ranks: [], world: null, points: {}, ...given
  };
}

export function board(given: Partial<Board> = {}): Board {
  return {
    full: false, rows: [], gone: [], cluster: null, leases: null, shares: null, alerts: null,
    groups: null, ...given
  };
}

export function news(given: Partial<News> = {}): News {
  return {
    type: "news", at: Date.now() / 1000, cluster_id: "c1", board: null, jobs: [], unknown: [],
    ...given
  };
}

/** Return random numbers from 0 to 1, the same each time. */
export function randoms(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
