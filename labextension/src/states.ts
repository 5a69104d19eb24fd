// The states of jobs and ranks: never told by colour alone. Pure.

import type { TranslationBundle } from "@jupyterlab/translation";

import { oneLine } from "./format";
import type { JobState } from "./protocol";

/** Which accent a state has. */
export type Tone = "wait" | "run" | "good" | "bad" | "off";

/** A state as shown. The word always stands beside the symbol. */
export interface ISign {
  readonly symbol: string;
  readonly word: string;
  readonly tone: Tone;
}

/** Return a job's, a rank's or an event's state as shown; one that isn't known is itself. */
export function sign(trans: TranslationBundle, state: string): ISign {
  switch (state) {
    case "queued":
      return { symbol: "○", word: trans._p("state", "queued"), tone: "wait" };
    case "starting":
      return { symbol: "◐", word: trans._p("state", "starting"), tone: "run" };
    case "running":
      return { symbol: "►", word: trans._p("state", "running"), tone: "run" };
    case "checkpointing":
      return { symbol: "▼", word: trans._p("state", "checkpointing"), tone: "run" };
    case "stopping":
      return { symbol: "■", word: trans._p("state", "stopping"), tone: "wait" };
    case "succeeded":
      return { symbol: "✓", word: trans._p("state", "succeeded"), tone: "good" };
    case "finished":
      return { symbol: "✓", word: trans._p("state", "finished"), tone: "good" };
    case "retried":
      return { symbol: "↻", word: trans._p("state", "retried"), tone: "wait" };
    case "failed":
      return { symbol: "✗", word: trans._p("state", "failed"), tone: "bad" };
    case "exited":
      return { symbol: "✗", word: trans._p("state", "exited"), tone: "bad" };
    case "lost":
      return { symbol: "✗", word: trans._p("state", "lost"), tone: "bad" };
    case "cancelled":
      return { symbol: "⊘", word: trans._p("state", "cancelled"), tone: "off" };
    case "left":
      return { symbol: "■", word: trans._p("state", "left"), tone: "off" };
    case "ended":
      return { symbol: "■", word: trans._p("state", "ended"), tone: "off" };
    default:
      return { symbol: "•", word: oneLine(String(state ?? "")), tone: "off" };
  }
}

/** Whether a job has ended for good. */
export function isFinal(state: JobState): boolean {
  return state === "succeeded" || state === "failed" || state === "cancelled";
}

/** Whether a job holds its workers now. */
export function holdsGang(state: JobState): boolean {
  return state === "starting" || state === "running" || state === "stopping";
}
