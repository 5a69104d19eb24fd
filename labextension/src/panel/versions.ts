// Which pieces of a job are drawn anew, and how often: numbers no faster than they can be read.

import type { JobView } from "../protocol";

/** Each is another number when that piece of the job is to be drawn anew. */
export interface IVersions {
  readonly head: number;
  /** Of the head all but what moves with each step. */
  readonly facts: number;
  readonly failures: number;
  readonly run: number;
  readonly ranks: number;
  readonly points: number;
  readonly notes: number;
  /** When a second has passed. */
  readonly clock: number;
}

type Piece = keyof IVersions;

/** Milliseconds between two drawings of a piece, a little less than half a second and a second. */
const EVERY: Partial<Record<Piece, number>> = { ranks: 450, points: 950 };

/** What changes in a head with each step. */
const MOVING: ReadonlySet<string> = new Set(["step", "rate", "eta_s", "metrics", "goodput"]);

/** Counts the pieces of one job. What is new of the job as such brings everything with it. */
export class Versions {
  /** Some pieces are new. */
  renew(pieces: readonly Piece[]): void {
    pieces.forEach(piece => this.fresh.add(piece));
  }

  /** Return what to draw at a time in ms, and how long to wait for the rest; null: there is none. */
  take(now: number): { readonly versions: IVersions; readonly wait: number | null } {
    const versions = { ...this.taken };
    const urgent = this.fresh.has("facts") || this.fresh.has("failures");
    let wait = Infinity;
    for (const piece of this.fresh) {
      const left = urgent ? 0 : (this.takenAt[piece] ?? -Infinity) + (EVERY[piece] ?? 0) - now;
      if (left > 0) {
        wait = Math.min(wait, left);
        continue;
      }
      versions[piece] += 1;
      this.takenAt[piece] = now;
      this.fresh.delete(piece);
    }
    this.taken = versions;
    return { versions, wait: wait === Infinity ? null : wait };
  }

  private readonly fresh = new Set<Piece>();
  private readonly takenAt: Partial<Record<Piece, number>> = {};
  private taken: IVersions = {
    head: 0,
    facts: 0,
    failures: 0,
    run: 0,
    ranks: 0,
    points: 0,
    notes: 0,
    clock: 0
  };
}

/** Whether a job has done nothing but gone on since it was as it was before. */
export function onlyMoved(before: JobView | null, now: JobView | null): boolean {
  if (before === null || now === null || before === now) {
    return false; // the same again: something else about it is new
  }
  const old = before as unknown as Record<string, unknown>;
  return Object.entries(now).every(([name, value]) => MOVING.has(name) || alike(old[name], value));
}

function alike(a: unknown, b: unknown): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}
