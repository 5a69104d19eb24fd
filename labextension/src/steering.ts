// Steering from menus and keys: the same as the buttons of a panel, for a job that may have none.

import { InputDialog, Notification } from "@jupyterlab/apputils";
import type { TranslationBundle } from "@jupyterlab/translation";

import { joined, oneLine } from "./format";
import { reason } from "./panel/context";
import * as preview from "./preview";
import type { CheckpointView } from "./protocol";
import { sceneOf } from "./scene";
import type { IScene, Preview } from "./scene";
import { READ } from "./shellActions";
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

  rollback(job: string): Promise<void> {
    return this.steer(job, async scene => {
      const to = await this.chosen(scene);
      return to === null ? null : preview.rollback(scene, to);
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
      if (!confirm || (await this.actions.confirm(title, body, accept))) {
        Notification.success((await this.feed.act(action)).said, { autoClose: READ });
      }
    } catch (error) {
      Notification.error(reason(error), { autoClose: READ });
    }
  }

  /** Ask for one of a run's checkpoints, the newest first; null if the user thinks better of it. */
  private async chosen({ run }: IScene): Promise<CheckpointView | null> {
    const choice = (run?.checkpoints ?? []).filter(({ id }) => id !== run?.head).reverse();
    if (run === null || choice.length === 0) {
      throw new Error(this.trans.__("There is no other checkpoint to go back to."));
    }
    // Two attempts can save the same step, so the number tells them apart.
    const items = choice.map(
      ({ ref, tags }, i) => `${i + 1}. ${joined(ref, ...tags.map(oneLine))}`
    );
    const answer = await InputDialog.getItem({
      title: this.trans.__("Roll back %1", run.name),
      label: this.trans.__("To which checkpoint?"),
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
      await known(model);
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
function known(model: IJobModel): Promise<void> {
  const enough = () => model.unknown || (!model.stale && model.head !== null && model.run !== null);
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
