// What the sidebar lists, as the pieces that the feed brings make it up.

import { type ISignal, Signal } from "@lumino/signaling";

import type {
  AlertsReport,
  Board,
  BoardRow,
  ClusterView,
  HostLease,
  ShareRow
} from "./protocol";
import { holdsGang } from "./states";
import type { IBoardModel } from "./tokens";

/** The model behind the sidebar. Changes are collected, and told by `flush`. */
export class BoardModel implements IBoardModel {
  constructor() {
    this.changed = this._changed = new Signal<IBoardModel, void>(this);
  }

  readonly changed: ISignal<IBoardModel, void>;
  cluster: ClusterView | null = null;
  leases: readonly HostLease[] = [];
  shares: readonly ShareRow[] = [];
  alerts: AlertsReport | null = null;

  get rows(): readonly BoardRow[] {
    if (this._rows === null) {
      this._rows = [...this._byId.values()].sort(inOrder);
    }
    return this._rows;
  }

  groupsOf(user: string): readonly string[] {
    return this._groups.get(user) ?? [];
  }

  /** Take what is new. The same piece again changes nothing. */
  apply(board: Board): void {
    if (board.full) {
      this.reset();
    }
    for (const row of board.rows) {
      this._byId.set(row.id, row);
    }
    for (const id of board.gone) {
      this._byId.delete(id);
    }
    if (board.rows.length > 0 || board.gone.length > 0) {
      this._rows = null;
    }
    this.cluster = board.cluster ?? this.cluster;
    this.leases = board.leases ?? this.leases;
    this.shares = board.shares ?? this.shares;
    this.alerts = board.alerts ?? this.alerts;
    if (board.groups !== null) {
      this._groups = new Map(Object.entries(board.groups));
    }
    this._isNew = true;
  }

  /** Forget everything. */
  reset(): void {
    this._byId.clear();
    this._rows = null;
    this._groups.clear();
    this.cluster = null;
    this.leases = [];
    this.shares = [];
    this.alerts = null;
    this._isNew = true;
  }

  /** Tell that something has changed since the last time, if anything has. */
  flush(): void {
    if (this._isNew) {
      this._isNew = false;
      this._changed.emit();
    }
  }

  dispose(): void {
    Signal.clearData(this);
  }

  private readonly _changed: Signal<IBoardModel, void>;
  private readonly _byId = new Map<string, BoardRow>();
  private _groups = new Map<string, readonly string[]>();
  /** Sorted when somebody looks; null until then. */
  private _rows: readonly BoardRow[] | null = null;
  private _isNew = false;
}

/**
 * Compare two rows: those that hold workers by their start, the oldest first; then the queue in its
 * order; then what has ended, the newest first. The id decides between equals.
 */
function inOrder(a: BoardRow, b: BoardRow): number {
  const part = section(a) - section(b);
  if (part !== 0) {
    return part;
  }
  switch (section(a)) {
    case 0:
      return ascending(a.started_at, b.started_at) || byId(a, b);
    case 1:
      return (
        ascending(a.position, b.position) || ascending(a.submitted_at, b.submitted_at) || byId(a, b)
      );
    default:
      return ascending(b.ended_at, a.ended_at) || byId(a, b);
  }
}

function section(row: BoardRow): number {
  return holdsGang(row.state) ? 0 : row.state === "queued" ? 1 : 2;
}

// What isn't known comes last.
function ascending(a: number | null, b: number | null): number {
  const left = a ?? Infinity;
  const right = b ?? Infinity;
  return left === right ? 0 : left < right ? -1 : 1;
}

function byId(a: BoardRow, b: BoardRow): number {
  return a.id === b.id ? 0 : a.id < b.id ? -1 : 1;
}
