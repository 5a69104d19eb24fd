// What the parts of the extension know of each other: the model behind every view.

import { Token } from "@lumino/coreutils";
import type { IDisposable } from "@lumino/disposable";
import type { ISignal } from "@lumino/signaling";

import type {
  Action,
  AlertsReport,
  BoardRow,
  ClusterView,
  DiffReport,
  Done,
  Failure,
  HostLease,
  Injected,
  JobView,
  LogMatches,
  LogText,
  RankRow,
  RunView,
  ShareRow,
  WhyReport
} from "./protocol";

/**
 * Whether what is shown is live. `offline`: the Jupyter server doesn't answer; `down`: the cluster
 * doesn't, or page and server don't understand each other.
 */
export type Contact =
  | { readonly kind: "connecting" }
  | { readonly kind: "live" }
  | { readonly kind: "offline"; readonly since: number }
  | { readonly kind: "down"; readonly why: string; readonly noCluster: boolean };

/** Points of one metric, by columns, as the plot takes them; a value that is no number is null. */
export interface ISeries {
  readonly steps: readonly number[];
  readonly values: readonly (number | null)[];
}

/** What the sidebar shows. `changed` is emitted at most once for each message. */
export interface IBoardModel {
  readonly changed: ISignal<IBoardModel, void>;
  /** All rows: running ones first, then the queue in its order, then the newest that have ended. */
  readonly rows: readonly BoardRow[];
  readonly cluster: ClusterView | null;
  readonly leases: readonly HostLease[];
  readonly shares: readonly ShareRow[];
  readonly alerts: AlertsReport | null;
  /** The groups of a user. */
  groupsOf(user: string): readonly string[];
}

/** A job as a notebook's file has it. */
export interface ISaved {
  readonly view: JobView;
  /** Of when that is, in seconds since 1970; null if the file doesn't say. */
  readonly at: number | null;
}

/** Which pieces of a job are new. */
export interface IJobChange {
  readonly head: boolean;
  readonly failures: boolean;
  readonly run: boolean;
  readonly ranks: boolean;
  readonly points: boolean;
  readonly notes: boolean;
}

/** One job, live as long as somebody holds it. `changed` is emitted at most once for each message. */
export interface IJobModel extends IDisposable {
  readonly id: string;
  readonly changed: ISignal<IJobModel, IJobChange>;
  /** Null until it is known. Its ranks, series, checkpoints, failures, notes and chaos are empty. */
  readonly head: JobView | null;
  readonly failures: readonly Failure[];
  readonly chaos: readonly Injected[];
  readonly notes: readonly string[];
  readonly run: RunView | null;
  /** By rank. */
  readonly ranks: readonly RankRow[];
  readonly series: ReadonlyMap<string, ISeries>;
  /** The cluster has no such job. */
  readonly unknown: boolean;
  /** What is shown comes from the notebook's file: no cluster has told anything yet. */
  readonly stale: boolean;
  /** Of when that is, in seconds since 1970; null if it isn't stale, or the file doesn't say. */
  readonly savedAt: number | null;
}

/** Everything that comes from, and goes to, the Jupyter server. One for the application. */
export interface IFeed {
  readonly contact: Contact;
  readonly contactChanged: ISignal<IFeed, Contact>;
  /** Who the user is, "" until that is known. */
  readonly user: string;
  /** The scheduler's clock now, in seconds since 1970. */
  now(): number;
  readonly clusterId: string;
  readonly board: IBoardModel;
  /**
   * Follow a job until the model is disposed; several holders share what is received.
   *
   * `saved` is shown until the cluster tells. `cluster` is the id of the job's own cluster, "" if
   * that isn't known: another one may have a job of the same id, which is then not shown.
   */
  job(id: string, saved?: ISaved | null, cluster?: string): IJobModel;
  /** Do something. Rejects with a `Refusal`. Repeats by itself if the answer is lost. */
  act(action: Omit<Action, "request_id">): Promise<Done>;
  log(job: string, rank: number, offset: number, limit: number, epoch?: number): Promise<LogText>;
  search(job: string, rank: number, text: string, epoch?: number): Promise<LogMatches>;
  /** Compare two checkpoints, by their references or ids. */
  diff(a: string, b: string): Promise<DiffReport>;
  /** Why a job is where it is, and what would start it. */
  why(job: string): Promise<WhyReport>;
}

/** What an action was refused for, as the user reads it. */
export class Refusal extends Error {
  constructor(
    readonly code: string,
    message: string
  ) {
    super(message);
  }
}

/** What a panel asks of the application around it. Where it can't be done, it is undefined. */
export interface IShellActions {
  /** Ask before something is done; the answer is whether to go on. */
  confirm(title: string, body: string, accept: string): Promise<boolean>;
  /** Ask for a name; null if the user thinks better of it. */
  askName(title: string, label: string, suggestion: string): Promise<string | null>;
  /** Open a job in a tab of its own. */
  openJob?(id: string): void;
  /** Go to the cell that has submitted a job. */
  goToCell?(notebook: string, cellId: string): void;
  /** Insert code below the active cell of the notebook in front. */
  insertCode?(code: string): void;
}

/** The token by which other extensions get at the model. */
export const IResilientFeed = new Token<IFeed>(
  "resilient_nb:IFeed",
  "Live state of resilient_nb's jobs, and what can be done with them."
);
