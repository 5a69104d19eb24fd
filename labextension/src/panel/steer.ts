// From a button to what it does: what will come of it is said first, then asked, then done.

import type { TranslationBundle } from "@jupyterlab/translation";

import { oneLine } from "../format";
import { forkName, forkProblem, tagProblem } from "../names";
import * as preview from "../preview";
import type { CheckpointView, RunView } from "../protocol";
import { sceneOf } from "../scene";
import type { IOffer, IScene, Preview } from "../scene";
import type { IFeed, IShellActions } from "../tokens";
import type { IPanel } from "./context";

/** What a button stands for, by what is known when it is drawn, and again when it is pressed. */
export type Look = (scene: IScene) => Preview;

/** Return what a button would do now. */
export function look(panel: IPanel, by: Look): Preview {
  const scene = sceneOf(panel.trans, panel.feed, panel.model);
  return scene === null
    ? { possible: false, why: panel.trans.__("Nothing is known of this job yet.") }
    : by(scene);
}

/** Do it, after the user has agreed to what can't be taken back. */
export async function steer(panel: IPanel, by: Look): Promise<void> {
  const found = look(panel, by);
  if (!found.possible) {
    panel.doing.tell(found.why);
    return;
  }
  await agree(panel, found);
}

async function agree(panel: IPanel, found: IOffer): Promise<void> {
  const { action, title, body, accept, confirm } = found;
  if (!confirm || (await panel.actions.confirm(oneLine(title), oneLine(body), accept))) {
    await panel.doing.act(action);
  }
}

/** Ask for the name of a fork, and make it. */
export function fork(panel: IPanel, at: CheckpointView): Promise<void> {
  const known = knownRuns(panel.feed, panel.model.run, at);
  return named(panel, scene => preview.fork(scene, at), known);
}

/** Ask for a tag, and give it to a checkpoint. */
export function tag(panel: IPanel, at: CheckpointView): Promise<void> {
  return named(panel, scene => preview.tag(scene, at));
}

async function named(panel: IPanel, by: Look, known?: ReadonlySet<string>): Promise<void> {
  const found = look(panel, by);
  if (!found.possible) {
    panel.doing.tell(found.why);
    return;
  }
  const offer = await withName(panel.trans, panel.actions, found, known);
  if (offer !== null) {
    await agree(panel, offer);
  }
}

/** Return the names of runs that a fork can't have, as far as they are known here. */
export function knownRuns(
  feed: IFeed,
  run: RunView | null,
  at: CheckpointView
): ReadonlySet<string> {
  const listed = feed.board.rows.map(row => row.run);
  return new Set([at.run, ...listed, ...Object.keys(run?.forks ?? {})]);
}

/**
 * Ask for the name that a fork or a tag needs, until it is right; null: nothing is to be done.
 *
 * @param known - names of runs, of which a fork can have none.
 */
export async function withName(
  trans: TranslationBundle,
  actions: IShellActions,
  found: IOffer,
  known: ReadonlySet<string> = new Set()
): Promise<IOffer | null> {
  const { action, title, body } = found;
  const isTag = action.verb === "tag";
  const label = isTag ? trans.__("Tag") : trans.__("Name of the new run");
  let said = body;
  for (let name = isTag ? "" : forkName(action.run ?? "", known); ;) {
    const given = await actions.askName(oneLine(title), oneLine(`${said} ${label}:`), name);
    if (given === null) {
      return null;
    }
    name = given;
    said = isTag ? tagProblem(trans, name) : forkProblem(trans, name, known);
    if (!said) {
      return found.named?.(name) ?? { ...found, action: { ...action, name } };
    }
  }
}
