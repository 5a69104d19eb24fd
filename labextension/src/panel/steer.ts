// From a button to what it does: what will come of it is said first, then asked, then done.

import { oneLine } from "../format";
import { forkName, runProblem, tagProblem } from "../names";
import * as preview from "../preview";
import type { CheckpointView } from "../protocol";
import { type Preview, sceneOf } from "../scene";
import type { IScene } from "../scene";
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
  const { action, title, body, accept, confirm } = found;
  if (!confirm || (await panel.actions.confirm(oneLine(title), oneLine(body), accept))) {
    await panel.doing.act(action);
  }
}

/** Ask for the name of a fork, and make it. */
export function fork(panel: IPanel, at: CheckpointView): Promise<void> {
  const known = [
    at.run,
    ...panel.feed.board.rows.map(row => row.run),
    ...Object.keys(panel.model.run?.forks ?? {})
  ];
  const suggestion = forkName(at.run, known);
  return named(
    panel,
    scene => preview.fork(scene, at),
    panel.trans.__("Name of the new run"),
    suggestion
  );
}

/** Ask for a tag, and give it to a checkpoint. */
export function tag(panel: IPanel, at: CheckpointView): Promise<void> {
  return named(panel, scene => preview.tag(scene, at), panel.trans.__("Tag"), "");
}

async function named(panel: IPanel, by: Look, label: string, suggestion: string): Promise<void> {
  const { trans, actions, doing } = panel;
  const found = look(panel, by);
  if (!found.possible) {
    doing.tell(found.why);
    return;
  }
  const { action, title, body, accept, confirm } = found;
  const problem = action.verb === "tag" ? tagProblem : runProblem;
  let said = body;
  for (let name = suggestion; ;) {
    const given = await actions.askName(oneLine(title), oneLine(`${said} ${label}:`), name);
    if (given === null) {
      return;
    }
    name = given;
    said = problem(trans, name);
    if (!said) {
      if (!confirm || (await actions.confirm(oneLine(title), oneLine(body), accept))) {
        await doing.act({ ...action, name });
      }
      return;
    }
  }
}
