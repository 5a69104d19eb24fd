// A run's checkpoints as they are drawn: in the order they were made, a lane for each branch. Pure.
//
// The line that leads to the run's head is lane 0. What a rollback has left behind lies beside it,
// and goes on there if somebody went back to it.

import type { CheckpointView, RunView } from "./protocol";

/** A checkpoint and where it is drawn. */
export interface INode {
  readonly checkpoint: CheckpointView;
  /** Its place in the order in which they were made, from 0. */
  readonly column: number;
  readonly lane: number;
  /** Column of the checkpoint that it follows; null if that isn't drawn. */
  readonly parent: number | null;
  /** Whether it leads to the head. */
  readonly onLine: boolean;
  readonly isHead: boolean;
  /** Names of runs that begin here. */
  readonly forks: readonly string[];
}

/** What a line of checkpoints begins with if it follows none that is drawn. */
export interface IOrigin {
  readonly column: number;
  /** The checkpoint of another run that it was forked from; null: it began from nothing. */
  readonly from: string | null;
}

/** All of a run's checkpoints. */
export interface ITimeline {
  /** In the order in which they were made: a node's index is its column. */
  readonly nodes: readonly INode[];
  readonly lanes: number;
  readonly origins: readonly IOrigin[];
  /** Column of the head; null if there is none, or it is another run's. */
  readonly head: number | null;
  /** By identity. */
  readonly columns: ReadonlyMap<string, number>;
}

/** A row of checkpoints, each following the one before it. */
interface IBranch {
  readonly columns: number[];
  /** Where it leaves another branch; its own first column if it leaves none. */
  readonly from: number;
}

/** Return a run's checkpoints with their places. */
export function timeline(run: RunView | null): ITimeline {
  // As the run has them, they are in order, whatever a clock that was set back says.
  const checkpoints = run?.checkpoints ?? [];
  const columns = new Map(checkpoints.map((c, column) => [c.id, column]));
  // A parent always comes before, so that no loop of parents can trap anything.
  const parents = checkpoints.map((c, column) => {
    const parent = c.parent === null ? undefined : columns.get(c.parent);
    return parent !== undefined && parent < column ? parent : null;
  });
  const head = run === null || run.head === null ? null : columns.get(run.head) ?? null;
  const line = ancestors(head, parents);
  const lanes = laid(branches(parents, line), head);
  const forks = forksAt(run);
  const nodes = checkpoints.map((checkpoint, column) => ({
    checkpoint,
    column,
    lane: lanes[column] ?? 0,
    parent: parents[column] ?? null,
    onLine: line.has(column),
    isHead: column === head,
    forks: forks.get(checkpoint.id) ?? []
  }));
  const origins = nodes
    .filter(node => node.parent === null)
    .map(node => ({ column: node.column, from: node.checkpoint.parent }));
  const count = nodes.reduce((most, node) => Math.max(most, node.lane + 1), 0);
  return { nodes, lanes: count, origins, head, columns };
}

/** Return how many checkpoints the head is ahead of one; null if that doesn't lead to it. */
export function behindHead(drawn: ITimeline, id: string): number | null {
  const column = drawn.columns.get(id);
  if (column === undefined || drawn.nodes[column]?.onLine !== true) {
    return null;
  }
  return drawn.nodes.filter(node => node.onLine && node.column > column).length;
}

function ancestors(head: number | null, parents: readonly (number | null)[]): Set<number> {
  const line = new Set<number>();
  for (let at = head; at !== null; at = parents[at] ?? null) {
    line.add(at);
  }
  return line;
}

// Where a checkpoint has several children, the one on the way to the head goes straight on; if
// there is none, the newest.
function branches(parents: readonly (number | null)[], line: ReadonlySet<number>): IBranch[] {
  const straight = new Map<number, number>();
  parents.forEach((parent, column) => {
    if (parent !== null && !line.has(straight.get(parent) ?? -1)) {
      straight.set(parent, column);
    }
  });
  const found: IBranch[] = [];
  const branchOf: IBranch[] = [];
  parents.forEach((parent, column) => {
    let branch = parent === null ? undefined : branchOf[parent];
    if (branch === undefined || straight.get(parent as number) !== column) {
      branch = { columns: [], from: parent ?? column };
      found.push(branch);
    }
    branch.columns.push(column);
    branchOf[column] = branch;
  });
  return found;
}

// Lane 0 is the branch with the head, or else the one with the newest checkpoint. Each of the
// others gets the nearest lane that is free from where it leaves its parent to its end.
function laid(found: readonly IBranch[], head: number | null): number[] {
  const main =
    found.find(branch => head !== null && branch.columns.includes(head)) ??
    found.reduce<IBranch | null>((a, b) => (a !== null && end(a) > end(b) ? a : b), null);
  const lanes: number[] = [];
  const ends: number[] = [Infinity];
  for (const branch of found) {
    let lane = 0;
    while (branch !== main && (ends[lane] ?? -1) >= branch.from) {
      lane += 1;
    }
    branch.columns.forEach(column => (lanes[column] = lane));
    ends[lane] = branch === main ? Infinity : end(branch);
  }
  return lanes;
}

function end(branch: IBranch): number {
  return branch.columns[branch.columns.length - 1] ?? -1;
}

function forksAt(run: RunView | null): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const [name, at] of Object.entries(run?.forks ?? {})) {
    found.set(at, [...(found.get(at) ?? []), name]);
  }
  return found;
}
