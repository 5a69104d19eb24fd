// Made by `python -m resilient_nb.wire.typescript` from the messages of resilient_nb/wire/feed.py.
// Do not edit. A number that isn't finite arrives as null, whatever its type says.

export const PROTOCOL = 7;

/**
 * POST `resilient-nb/actions`: one click.
 *
 * Attributes:
 * verb: cancel, restart, resume, rollback, fork, tag, retry.
 * job: what it is about, by id; or
 * run: by name.
 * ref: the checkpoint's id, for resume (optional), rollback, fork and tag.
 * name: of the fork, or the tag.
 * epoch: of the attempt that is meant (restart, retry).
 * head: id of the run's head as shown where the button is ("": it has none). If it isn't that
 * any more, nothing is done (resume, rollback). None: whatever it is.
 * anyway, memory: as of `Retry`.
 * request_id: made by the browser for each click, so that a repeat does no harm.
 */
export interface Action {
  verb: "cancel" | "fork" | "restart" | "resume" | "retry" | "rollback" | "tag";
  request_id: string;
  job?: string;
  run?: string;
  ref?: string;
  name?: string;
  epoch?: number;
  head?: string | null;
  anyway?: boolean;
  memory?: number;
}

/**
 * What a rule has found. `key` tells it from all others.
 *
 * Attributes:
 * since: when it began to be so.
 * at: when it came to its stage.
 * fine_since: since when it is fine again, though not for long enough.
 * count: how often it happened (1 if it is no event).
 * last_at: when it last happened, or was last seen to be so.
 */
export interface Alert {
  key: string;
  rule: string;
  severity: Severity;
  labels: { [name: string]: string };
  stage: Stage;
  since: number;
  at: number;
  text: string;
  value: number;
  fine_since: number | null;
  count: number;
  last_at: number;
}

/**
 * What `resilient alerts` shows: what fires, the worst first, and what is over.
 */
export interface AlertsReport {
  firing: Alert[];
  recent: Alert[];
  channels: ChannelView[];
}

/**
 * What the sidebar shows. A piece that is None is as it was.
 *
 * Attributes:
 * full: forget what you have.
 * rows: jobs that are new or have changed: all unfinished ones, and the newest of the others.
 * gone: ids of jobs that are no longer listed.
 * groups: by user, the groups that they are in.
 */
export interface Board {
  full: boolean;
  rows: BoardRow[];
  gone: string[];
  cluster: ClusterView | null;
  leases: HostLease[] | null;
  shares: ShareRow[] | null;
  alerts: AlertsReport | null;
  groups: { [name: string]: string[] } | null;
}

/**
 * A job in the sidebar's list. `position` is its place among those that wait, from 1.
 *
 * `failures` is how many there were, `cause` the last one's; `alerts` how many fire now.
 * `starts_guess` is the job whose unknown end makes `starts_at` a guess ("": it is none).
 */
export interface BoardRow {
  id: string;
  run: string;
  state: JobState;
  user: string;
  group: string;
  priority: string;
  label: string;
  workers: number;
  max_workers: number;
  held: number;
  step: number;
  total_steps: number | null;
  rate: number;
  eta_s: number | null;
  position: number | null;
  starts_at: number | null;
  reason: string;
  submitted_at: number;
  started_at: number | null;
  ended_at: number | null;
  attempts: number;
  failures: number;
  cause: string;
  alerts: number;
  notebook: string;
  cell_id: string;
  starts_guess: string;
}

/**
 * What an interval of `auto` has come to, all in seconds but for `overhead`.
 *
 * Checkpoints every `every`, since one costs `cost` of training and a failure is expected after
 * `mtbf`; they take at most `overhead` of the time.
 */
export interface Cadence {
  every: number;
  cost: number;
  mtbf: number;
  overhead: number;
}

/**
 * A way to tell people, and how it does. `trouble` is why the last try failed, if it did.
 */
export interface ChannelView {
  name: string;
  kind: string;
  to: string;
  waiting: number;
  sent: number;
  trouble: string;
}

/**
 * One checkpoint as shown. `ref` is what a user types to name it.
 *
 * Of its `nbytes` of tensors, `changed` were not in the store before; they take `written` bytes
 * there. `copies` are the places where it may be, too; `replicated` says whether it is at all of
 * them that it should be: yes, lagging or failing ("": there need be none).
 */
export interface CheckpointView {
  ref: string;
  run: string;
  step: number;
  at: number;
  nbytes: number;
  digest: string;
  parent: string | null;
  id: string;
  path: string;
  tags: string[];
  is_head: boolean;
  job: string;
  metrics: { [name: string]: number };
  changed: number;
  written: number;
  copies: string[];
  replicated: string;
}

/**
 * The cluster as shown.
 */
export interface ClusterView {
  address: string;
  cluster_id: string;
  version: string;
  store: string;
  slots: number;
  used: number;
  max_workers: number | null;
  hosts: HostView[];
  running: string[];
  queued: string[];
  metrics: string;
  alerts: string[];
}

/**
 * How the cells differ: a unified diff, without line ends, and by file the helpers' sha256.
 *
 * `equal` is None if one of the checkpoints doesn't record its cell.
 */
export interface CodeChange {
  equal: boolean | null;
  diff: string[];
  helpers: ValueChange[];
}

/**
 * What `%resilient diff A B` shows.
 *
 * Attributes:
 * a, b: the checkpoints.
 * only: the tracked object that was compared; None for all.
 * equal: whether all state that was compared is equal.
 * read: bytes of tensors that were read; those with equal digests weren't.
 * parts: tracked objects. `rank-N` is what only that rank has, such as random numbers.
 * tensors: all tensors of these, in the order of their names.
 * state: other state that differs, by path: hyperparameters, counters, plain values.
 * hidden: how many more values differ than are in `state`.
 * metrics, code, config, data, versions, environment, numerics: what differs of these.
 * notes: what couldn't be compared, and why.
 */
export interface DiffReport {
  a: CheckpointView;
  b: CheckpointView;
  only: string | null;
  equal: boolean;
  read: number;
  parts: PartChange[];
  tensors: TensorChange[];
  state: ValueChange[];
  hidden: number;
  metrics: MetricChange[];
  code: CodeChange;
  config: ValueChange[];
  data: ValueChange[];
  versions: ValueChange[];
  environment: ValueChange[];
  numerics: ValueChange[];
  notes: string[];
}

/**
 * What came of an action, in a sentence. `job` is the one that it made, or is about.
 */
export interface Done {
  said: string;
  job: string;
  run: string;
}

/**
 * The cluster doesn't answer, and why. What is known stays; news end it.
 */
export interface Down {
  type: "down";
  why: string;
  no_cluster: boolean;
}

/**
 * Why an attempt ended badly and what was decided, in words a user reads.
 *
 * Attributes:
 * decision: retry, or stop.
 * host: where the rank to blame was.
 * evidence: the facts that the cause follows from, a line each.
 * stacks: where the threads of all ranks were, if that was looked at.
 * lost_steps: steps that are made again.
 * lost_s: seconds of work that are lost with them.
 * down_s: seconds from then until it ran again; 0 if it hasn't yet.
 * spent: the budget that is used up, if it was stopped for that and not for good: a person
 * may well give it another one (`resilient dead`).
 * remedy: what the next attempt does differently.
 */
export interface Failure {
  cause: string;
  message: string;
  decision: string;
  reason: string;
  at: number;
  epoch: number;
  rank: number | null;
  step: number;
  resumes_from: number | null;
  error: RemoteError | null;
  host: string;
  evidence: string[];
  stacks: string;
  lost_steps: number;
  lost_s: number;
  down_s: number;
  spent: string;
  remedy: Remedy | null;
}

/**
 * One line of a remote traceback, packed where the exception was.
 */
export interface Frame {
  filename: string;
  lineno: number;
  name: string;
  line: string;
}

/**
 * Why there is little sense in going on with a job.
 */
export type Futile = "converged" | "dominated" | "late";

/**
 * A job's time so far.
 *
 * Attributes:
 * wall_s: seconds since it first had its gang, without the times it waited for others' sake.
 * steps: that were made and stay; those made again count once.
 * step_s: what a step usually takes; None if nothing is known.
 * useful_s: what these steps take without any trouble.
 * goodput: useful_s of wall_s, from 0 to 1.
 * failures: attempts that ended badly.
 * mttr_s: mean seconds from a failure to the first step after it (time to repair).
 * lost_steps: steps that had to be made again.
 */
export interface Goodput {
  wall_s: number;
  steps: number;
  step_s: number | null;
  useful_s: number | null;
  goodput: number | null;
  failures: number;
  mttr_s: number | null;
  lost_steps: number;
}

/**
 * The first message: who the user is. `protocol` must be the browser's own.
 *
 * It comes again if the cluster knows the user by another name.
 */
export interface Hello {
  type: "hello";
  protocol: number;
  version: string;
  user: string;
}

/**
 * Slots of a host that a job holds.
 */
export interface HostLease {
  host: string;
  job: string;
  slots: number;
}

/**
 * A machine of the cluster: slots in all and in use, and its Dask workers.
 *
 * `unwell` says why it gets no new jobs, or only one to try ("": it gets all).
 * `store_free` and `disk_free` are bytes of the store and of its own disk, as far as they are
 * known; `round_trip` is how many seconds the scheduler takes to answer it.
 */
export interface HostView {
  id: string;
  slots: number;
  used: number;
  workers: string[];
  warm: boolean;
  unwell: string;
  store_free: number | null;
  disk_free: number | null;
  round_trip: number;
}

/**
 * Something that was broken on purpose: `user` wanted it, for so many `seconds`.
 *
 * `id` is that of the request. `checkpoint` is the one that was damaged, "" if none was.
 */
export interface Injected {
  id: string;
  kind: Injection;
  epoch: number;
  rank: number;
  host: string;
  at: number;
  seconds: number;
  user: string;
  checkpoint: string;
}

/**
 * What can be broken on purpose, to see whether a job survives it.
 */
export type Injection = "corrupt-chunk" | "drop-network" | "fill-disk" | "hang" | "kill-rank" | "kill-worker" | "slow" | "stop";

/**
 * What is new of one job. A piece that is None is as it was.
 *
 * Attributes:
 * full: forget what you have of this job.
 * head: the job without ranks, series, checkpoints, failures, notes and chaos (empty there).
 * run: its lineage: the checkpoints of all the run's jobs, tags, head and forks.
 * ranks: those that have changed. Ranks from `world` on are no more.
 * world: how many ranks there are.
 * points: of each metric the new points in order of their steps. They replace all known
 * points from the first new step on.
 */
export interface JobDelta {
  job: string;
  full: boolean;
  head: JobView | null;
  failures: Failure[] | null;
  chaos: Injected[] | null;
  notes: string[] | null;
  run: RunView | null;
  ranks: RankRow[];
  world: number | null;
  points: { [name: string]: ([number, number | null])[] };
}

/**
 * Where a job is between submission and its end.
 */
export type JobState = "cancelled" | "failed" | "queued" | "running" | "starting" | "stopping" | "succeeded";

/**
 * A job as shown. `series` maps a metric to (step, value) pairs, at most some hundreds.
 */
export interface JobView {
  id: string;
  run: string;
  state: JobState;
  reason: string;
  priority: string;
  workers: number;
  user: string;
  submitted_at: number;
  started_at: number | null;
  ended_at: number | null;
  attempts: number;
  epoch: number;
  step: number;
  total_steps: number | null;
  rate: number;
  eta_s: number | null;
  out: string[];
  returned: string[];
  ranks: LiveRank[];
  metrics: { [name: string]: number };
  series: { [name: string]: ([number, number])[] };
  checkpoints: CheckpointView[];
  failures: Failure[];
  notes: string[];
  label: string;
  max_workers: number;
  held: number;
  group: string;
  admin: boolean;
  after: string[];
  position: number | null;
  starts_at: number | null;
  starts_guess: string;
  cadence: Cadence | null;
  proposals: Proposal[];
  deadline_at: number | null;
  alerts: string[];
  goodput: Goodput | null;
  chaos: Injected[];
  inputs: string[];
  reads: { [name: string]: string };
  notebook: string;
  cell_id: string;
}

/**
 * What became of a tensor.
 */
export type Kind = "added" | "changed" | "equal" | "removed" | "reshaped" | "retyped";

/**
 * One rank now. `rate` in steps/s, `cpu` in cores, `gpu` as a part, `rss` in bytes.
 */
export interface LiveRank {
  rank: number;
  state: string;
  host: string;
  pid: number;
  step: number;
  total_steps: number | null;
  rate: number;
  rss: number;
  cpu: number;
  seen_at: number;
  phase: string;
  phase_s: number;
  data_s: number;
  compute_s: number;
  wait_s: number;
  checkpoint_s: number;
  longest_s: number;
  peak_rss: number;
  limit: number;
  read: number;
  written: number;
  missing: string[];
  gpu: number | null;
  gpu_memory: number;
}

/**
 * A line that has the text. `offset` is its first byte.
 */
export interface LogMatch {
  offset: number;
  line: string;
}

/**
 * GET `resilient-nb/search?job&rank&epoch&text`: the last matches, in the log's order.
 *
 * `more`: there are earlier ones. Upper and lower case are alike.
 */
export interface LogMatches {
  matches: LogMatch[];
  more: boolean;
  epoch: number;
}

/**
 * GET `resilient-nb/log?job&rank&epoch&offset&limit`: output from byte `offset` on.
 *
 * `next` is the offset behind it, `size` how many bytes there are. `offset` is where the text
 * begins: where it was asked for, so that it joins what ended there, but never in the midst of a
 * character. A negative offset counts from the end: then it is at a whole line, if there is one.
 */
export interface LogText {
  text: string;
  offset: number;
  next: number;
  size: number;
  epoch: number;
  epochs: number[];
}

/**
 * A metric that differs; None where there is none.
 */
export interface MetricChange {
  name: string;
  a: number | null;
  b: number | null;
}

/**
 * What has changed. If `cluster_id` is another one than before, forget everything.
 */
export interface News {
  type: "news";
  at: number;
  cluster_id: string;
  board: Board | null;
  jobs: JobDelta[];
  unknown: string[];
}

/**
 * A tracked object: how many of its tensors became what.
 *
 * The change is that of all tensors that changed as if they were one, without counters (whole
 * or single numbers) unless there is nothing else; `relative` is to what those were before.
 */
export interface PartChange {
  name: string;
  tensors: number;
  equal: number;
  changed: number;
  added: number;
  removed: number;
  nbytes_a: number;
  nbytes_b: number;
  norm: number;
  max_abs: number;
  relative: number | null;
}

/**
 * To stop a job at a checkpoint, since little is to be gained.
 *
 * `evidence` has the facts that it follows from, a line each.
 */
export interface Proposal {
  kind: Futile;
  evidence: string[];
  at: number;
}

/**
 * One rank now: a `LiveRank` as a JSON array, in this order; `straggler` holds others up.
 */
export type RankRow = [rank: number, state: string, host: string, pid: number, step: number, total_steps: number | null, rate: number, rss: number, cpu: number, phase: string, phase_s: number, data_s: number, compute_s: number, wait_s: number, checkpoint_s: number, longest_s: number, peak_rss: number, limit: number, read: number, written: number, gpu: number | null, gpu_memory: number, straggler: boolean];

/**
 * The body of every answer that isn't a success: a stable code and a sentence.
 */
export interface Refused {
  code: string;
  message: string;
}

/**
 * What a job's later attempts do differently since earlier ones failed.
 *
 * Attributes:
 * memory: bytes for each worker, if it needs more than was asked for (0: as asked for).
 * avoid: hosts that it isn't put on if there are others.
 * skip: steps that are counted, but not made: their batches did harm.
 * lr_scale: what learning rates are multiplied by.
 */
export interface Remedy {
  memory: number;
  avoid: string[];
  skip: number[];
  lr_scale: number;
}

/**
 * An exception of a rank as plain text. `frames` begin at the cell's own line.
 *
 * Attributes:
 * damaged: the checkpoint that the exception says is damaged, "" if it says nothing of any.
 * errno: of an error of the system, else 0.
 * lost_input: what the cell was to read and isn't there any more: a job, path or URL.
 * metric: what was no longer finite, or far off, if the run diverged.
 */
export interface RemoteError {
  type: string;
  message: string;
  frames: Frame[];
  in_collective: boolean;
  damaged: string;
  errno: number;
  lost_input: string;
  metric: string;
}

/**
 * A run as shown: its lineage and its jobs, oldest first.
 *
 * `forks` maps the names of runs that were forked from it to the checkpoints they began at.
 */
export interface RunView {
  name: string;
  created_at: number;
  head: string | null;
  forked_from: string | null;
  tags: { [name: string]: string };
  checkpoints: CheckpointView[];
  jobs: string[];
  active_job: string | null;
  forks: { [name: string]: string };
}

/**
 * How bad it is.
 */
export type Severity = "critical" | "info" | "warning";

/**
 * A group's (`user` is "") or a user's share: slots entitled to now, held and waited for.
 *
 * `used` is the decayed service so far as a share of everybody's, from 0 to 1; `due` the
 * share that was its by entitlement.
 */
export interface ShareRow {
  group: string;
  user: string;
  weight: number;
  entitled: number;
  held: number;
  waiting: number;
  used: number;
  due: number;
}

/**
 * Where an alert is.
 */
export type Stage = "firing" | "pending" | "resolved";

/**
 * GET `resilient-nb/status`: which cluster is looked at, and as whom.
 *
 * `error` says why there is no answer from there; it is "" if there is one.
 */
export interface Status {
  user: string;
  version: string;
  protocol: number;
  address: string;
  cluster_id: string;
  error: string;
}

/**
 * How one tensor differs.
 *
 * Values that aren't finite (NaN, infinities) are left out of the measures, on either side.
 *
 * Attributes:
 * name: of the tensor.
 * kind: what became of it.
 * shape_a, shape_b: None where it isn't there; so are the dtypes.
 * dtype_a, dtype_b: as torch names them (of a numpy array, as numpy does).
 * nbytes_a, nbytes_b: of the values.
 * differing: elements whose values differ. NaN is equal to NaN.
 * norm: L2 norm of the change; None if it can't be measured.
 * max_abs: its largest absolute value.
 * relative: `norm` by the norm of `a`; None if that is 0 (or there is no norm).
 * nan_a, nan_b: elements that are NaN.
 * undefined: differing elements that were left out of the measures.
 */
export interface TensorChange {
  name: string;
  kind: Kind;
  shape_a: number[] | null;
  shape_b: number[] | null;
  dtype_a: string | null;
  dtype_b: string | null;
  nbytes_a: number;
  nbytes_b: number;
  differing: number;
  norm: number | null;
  max_abs: number | null;
  relative: number | null;
  nan_a: number;
  nan_b: number;
  undefined: number;
}

/**
 * A plain value that differs, as Python writes it; None where there is none.
 */
export interface ValueChange {
  path: string;
  a: string | null;
  b: string | null;
}

/**
 * Why a job is where it is: the rule, in words, and what would start it now.
 *
 * `starts_at` and `starts_guess`: as of `QueueRow`.
 */
export interface WhyReport {
  job: string;
  state: JobState;
  rule: string;
  reason: string;
  starts_at: number | null;
  remedies: string[];
  starts_guess: string;
}

/**
 * From the browser: the jobs of which every detail is wanted, all of them each time.
 */
export interface Wish {
  type: "wish";
  jobs?: string[];
}

export const RANK = {
  rank: 0,
  state: 1,
  host: 2,
  pid: 3,
  step: 4,
  total_steps: 5,
  rate: 6,
  rss: 7,
  cpu: 8,
  phase: 9,
  phase_s: 10,
  data_s: 11,
  compute_s: 12,
  wait_s: 13,
  checkpoint_s: 14,
  longest_s: 15,
  peak_rss: 16,
  limit: 17,
  read: 18,
  written: 19,
  gpu: 20,
  gpu_memory: 21,
  straggler: 22,
} as const;
