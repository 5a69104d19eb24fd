// Steering from menus and keys: the same as the buttons of a panel, for a job that may have none.

import { InputDialog } from "@jupyterlab/apputils";
import type { TranslationBundle } from "@jupyterlab/translation";

import { joined, oneLine } from "./format";
import { reason } from "./panel/context";
import { knownRuns, withName } from "./panel/steer";
import * as preview from "./preview";
import type { CheckpointView } from "./protocol";
import { sceneOf } from "./scene";
import type { IScene, Preview } from "./scene";
import { tell } from "./shellActions";
import type { IFeed, IJobModel, IShellActions } from "./tokens";

/** Milliseconds in which the cluster must tell of a job that is to be steered. */
const PATIENCE = 10_000;

export class Steering {
  constructor(
    private readonly feed: IFeed,
    private readonly actions: IShellActions,
    private readonly trans: TranslationBundle
  ) {}

  cancel(job: string): Promise<void> {
    return this.steer(job, preview.cancel);
  }

  restart(job: string): Promise<void> {
    return this.steer(job, preview.restart);
  }

  resume(job: string): Promise<void> {
    return this.steer(job, scene => preview.resume(scene));
  }

  retry(job: string): Promise<void> {
    return this.steer(job, scene => preview.retry(scene));
  }

  rollback(job: string): Promise<void> {
    return this.steer(job, async scene => {
      const title = this.trans.__("Roll back %1", scene.job.run);
      const others = this.checkpoints(scene).filter(({ id }) => id !== scene.run?.head);
      const to = await this.chosen(title, others);
      return to === null ? null : preview.rollback(scene, to);
    });
  }

  fork(job: string): Promise<void> {
    return this.steer(job, async scene => {
      const title = this.trans.__("Fork %1", scene.job.run);
      const at = await this.chosen(title, this.checkpoints(scene));
      if (at === null) {
        return null;
      }
      return this.named(preview.fork(scene, at), knownRuns(this.feed, scene.run, at));
    });
  }

  tag(job: string): Promise<void> {
    return this.steer(job, async scene => {
      const title = this.trans.__("Tag a checkpoint of %1", scene.job.run);
      const at = await this.chosen(title, this.checkpoints(scene));
      return at === null ? null : this.named(preview.tag(scene, at));
    });
  }

  /** Say what will come of it, ask, do it, and tell the result. */
  private async steer(
    job: string,
    by: (scene: IScene) => Preview | null | Promise<Preview | null>
  ): Promise<void> {
    try {
      const found = await by(await this.scene(job));
      if (found === null) {
        return;
      }
      if (!found.possible) {
        throw new Error(found.why);
      }
      const { action, title, body, accept, confirm } = found;
      if (!confirm || (await this.actions.confirm(oneLine(title), oneLine(body), accept))) {
        tell(this.trans, "success", (await this.feed.act(action)).said);
      }
    } catch (error) {
      tell(this.trans, "error", reason(error));
    }
  }

  private named(found: Preview, known?: ReadonlySet<string>): Preview | Promise<Preview | null> {
    return found.possible ? withName(this.trans, this.actions, found, known) : found;
  }

  /** Return a run's checkpoints, the newest first. */
  private checkpoints({ run }: IScene): CheckpointView[] {
    return (run?.checkpoints ?? []).slice().reverse();
  }

  /** Ask for one of some checkpoints; null if the user thinks better of it. */
  private async chosen(
    title: string,
    choice: readonly CheckpointView[]
  ): Promise<CheckpointView | null> {
    if (choice.length === 0) {
      throw new Error(this.trans.__("%1: there is no checkpoint to choose.", title));
    }
    // Two attempts can save the same step, so the number tells them apart.
    const items = choice.map(
      ({ ref, tags }, i) => `${i + 1}. ${joined(ref, ...tags.map(oneLine))}`
    );
    const answer = await InputDialog.getItem({
      title,
      label: this.trans.__("Which checkpoint?"),
      items,
      okLabel: this.trans.__("Go On"),
      cancelLabel: this.trans.__("Cancel")
    });
    return answer.button.accept ? (choice[items.indexOf(answer.value ?? "")] ?? null) : null;
  }

  /** Return what the cluster says of a job now. */
  private async scene(job: string): Promise<IScene> {
    const model = this.feed.job(job);
    try {
      await known(model, this.feed);
      const scene = sceneOf(this.trans, this.feed, model);
      if (model.unknown) {
        throw new Error(this.trans.__("The cluster has no job %1 any more.", job));
      }
      if (scene === null) {
        throw new Error(this.trans.__("Nothing was done: the cluster tells nothing of %1.", job));
      }
      return scene;
    } finally {
      model.dispose();
    }
  }
}

/** Wait until a job and its run are known from the cluster, but not for ever. */
function known(model: IJobModel, feed: IFeed): Promise<void> {
  const told = () => model.unknown || (!model.stale && model.head !== null && model.run !== null);
  const enough = () => told() || feed.contact.kind === "offline" || feed.contact.kind === "down";
  return new Promise(resolve => {
    const end = () => {
      window.clearTimeout(timer);
      model.changed.disconnect(look);
      resolve();
    };
    const look = () => enough() && end();
    const timer = window.setTimeout(end, PATIENCE);
    model.changed.connect(look);
    look();
  });
}
