// What a notebook's file knows of a job, as the pieces that a cluster would send. Pure.
//
// The file may be of another version or written by anybody: what isn't there counts as empty.

import type { CheckpointView, JobDelta, JobView, LiveRank, RankRow, RunView } from "./protocol";

const UNKNOWN: JobView = {
  id: "", run: "", state: "queued", reason: "", priority: "normal", workers: 1, user: "",
  submitted_at: 0, started_at: null, ended_at: null, attempts: 0, epoch: 0, step: 0,
  total_steps: null, rate: 0, eta_s: null, out: [], returned: [], ranks: [], metrics: {},
  series: {}, checkpoints: [], failures: [], notes: [], label: "", max_workers: 0, held: 0,
  group: "", admin: false, after: [], position: null, starts_at: null, starts_guess: "",
  cadence: null,
  proposals: [], deadline_at: null, alerts: [], goodput: null, chaos: [], inputs: [], reads: {},
  notebook: "", cell_id: ""
};

/** Return a job as the first piece of it that the feed would bring. */
export function pieces(saved: JobView): JobDelta {
  const checkpoints = list(saved.checkpoints);
  return {
    job: saved.id,
    full: true,
    head: headOf(saved),
    failures: list(saved.failures),
    chaos: list(saved.chaos),
    notes: list(saved.notes),
    run: checkpoints.length > 0 ? lineage(saved, checkpoints) : null,
    ranks: list(saved.ranks).map(rankRow),
    world: null,
    points: saved.series ?? {}
  };
}

function headOf(saved: JobView): JobView {
  const given = new Map<string, unknown>(Object.entries(saved));
  const pairs = Object.entries(UNKNOWN).map(([name, unknown]) => {
    const value = given.get(name);
    return [name, isLike(value, unknown) ? value : unknown];
  });
  const apart = { ranks: [], series: {}, checkpoints: [], failures: [], notes: [], chaos: [] };
  return { ...(Object.fromEntries(pairs) as JobView), ...apart };
}

// Where null stands for what isn't known, there may be a number or an object.
function isLike(value: unknown, unknown: unknown): boolean {
  if (unknown === null || value === null || value === undefined) {
    return unknown === null && value !== undefined;
  }
  return typeof value === typeof unknown && Array.isArray(value) === Array.isArray(unknown);
}

function lineage(saved: JobView, checkpoints: CheckpointView[]): RunView {
  const tags = checkpoints.flatMap(c => list(c.tags).map(tag => [tag, c.id] as const));
  return {
    name: saved.run,
    created_at: saved.submitted_at,
    head: checkpoints.find(c => c.is_head)?.id ?? null,
    forked_from: null,
    tags: Object.fromEntries(tags),
    checkpoints,
    jobs: [saved.id],
    active_job: null,
    forks: {}
  };
}

function rankRow(rank: LiveRank): RankRow {
  return [
    rank.rank, rank.state, rank.host, rank.pid, rank.step, rank.total_steps, rank.rate, rank.rss,
    rank.cpu, rank.phase, rank.phase_s, rank.data_s, rank.compute_s, rank.wait_s,
    rank.checkpoint_s, rank.longest_s, rank.peak_rss, rank.limit, rank.read, rank.written,
    rank.gpu ?? null, rank.gpu_memory ?? 0, false
  ];
}

function list<T>(values: T[] | null | undefined): T[] {
  return Array.isArray(values) ? values : [];
}
