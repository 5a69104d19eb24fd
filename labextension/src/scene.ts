// Where a button is: what is known there, and what it can offer. Pure.

import type { TranslationBundle } from "@jupyterlab/translation";

import type { Action, CheckpointView, Failure, JobView, RunView } from "./protocol";
import { sign } from "./states";
import type { IFeed, IJobModel } from "./tokens";

/** What is known where the button is. */
export interface IScene {
  readonly trans: TranslationBundle;
  readonly job: JobView;
  readonly failures: readonly Failure[];
  readonly run: RunView | null;
  /** Who looks. */
  readonly user: string;
  /** Whether what is shown is live. */
  readonly live: boolean;
}

/** What is done and what the user reads first. `confirm`: it can't be taken back with one click. */
export interface IOffer {
  readonly possible: true;
  readonly action: Omit<Action, "request_id">;
  readonly title: string;
  readonly body: string;
  /** What the button says that does it. */
  readonly accept: string;
  readonly confirm: boolean;
  /** What it becomes with the name that it needs. */
  readonly named?: (name: string) => IOffer;
}

/** It can't be done now: why, and what can be done instead. */
export interface IBarred {
  readonly possible: false;
  readonly why: string;
}

export type Preview = IOffer | IBarred;

/** Return what is known of a job; null if that is nothing yet. */
export function sceneOf(trans: TranslationBundle, feed: IFeed, model: IJobModel): IScene | null {
  const job = model.head;
  if (job === null) {
    return null;
  }
  const live = feed.contact.kind === "live" && !model.stale && !model.unknown;
  return { trans, job, failures: model.failures, run: model.run, user: feed.user, live };
}

/** Return the checkpoint that a run goes on from; null if it has none of its own. */
export function headOf({ run }: IScene): CheckpointView | null {
  return run?.checkpoints.find(c => c.id === run.head) ?? null;
}

/** Return the job's state in a word. */
export function word({ trans, job }: IScene): string {
  return sign(trans, job.state).word;
}

/** Return that nothing can be done, since nobody would hear it. */
export function notLive(trans: TranslationBundle): IBarred {
  return barred(trans.__("What is shown isn't live, so nothing can be done now."));
}

/** Return that something can't be done. */
export function barred(why: string): IBarred {
  return { possible: false, why };
}

type Words = Omit<IOffer, "possible" | "action">;

/** Return what can be done; it is said if the job is somebody else's. */
export function offer(scene: IScene, action: IOffer["action"], words: Words): IOffer {
  const { trans, job, user } = scene;
  const others = job.user !== "" && user !== "" && job.user !== user && action.verb !== "fork";
  const whose = trans.__("It is %1's: only %1 and administrators may do this.", job.user);
  const body = others ? `${words.body} ${whose}` : words.body;
  return { possible: true, action, ...words, body, confirm: words.confirm || others };
}
