// What a click will do, before it is done; and why it can't be, where it can't. Pure.
//
// The control plane decides in the end (control/commands.py): here its rules are said in advance.
// Whether the user is an administrator isn't known here, so who owns a job bars nothing.

import { size, whole } from "./format";
import { behindHead, timeline } from "./lineage";
import type { CheckpointView } from "./protocol";
import { barred, headOf, notLive, offer, word } from "./scene";
import type { IBarred, IOffer, IScene, Preview } from "./scene";
import { holdsGang, isFinal } from "./states";

/** Preview `cancel`: to end a job at a checkpoint. */
export function cancel(scene: IScene): Preview {
  const { trans, job } = scene;
  if (!scene.live) {
    return notLive(trans);
  }
  if (isFinal(job.state)) {
    return barred(trans.__("%1 has ended already: %2.", job.id, word(scene)));
  }
  const body =
    job.state === "queued"
      ? trans.__("It leaves the queue. No work is lost, and Resume submits it again.")
      : trans.__(
          "It checkpoints at its next step, then ends. No work is lost: Resume goes on from there."
        );
  return offer(scene, { verb: "cancel", job: job.id }, {
    title: trans.__("Cancel %1?", job.id),
    body,
    accept: trans.__("Cancel the job"),
    confirm: true
  });
}

/** Preview `restart`: to end a stuck job's ranks at once, and begin them again from the head. */
export function restart(scene: IScene): Preview {
  const { trans, job } = scene;
  if (!scene.live) {
    return notLive(trans);
  }
  if (isFinal(job.state)) {
    return barred(
      trans.__(
        "%1 has ended (%2), so there is nothing to restart. Resume goes on with its run.",
        job.id,
        word(scene)
      )
    );
  }
  if (!holdsGang(job.state)) {
    return barred(trans.__("%1 waits in the queue, so there is nothing to restart.", job.id));
  }
  const head = headOf(scene);
  const lost = Math.max(0, job.step - (head?.step ?? 0));
  const again = head
    ? trans.__("The job goes on from step %1.", whole(head.step))
    : trans.__("There is no checkpoint yet, so the job begins again from step 0.");
  const cost =
    lost > 0
      ? trans._n("1 step is made again.", "%2 steps are made again.", lost, whole(lost))
      : trans.__("No step is made again.");
  return offer(scene, { verb: "restart", job: job.id, epoch: job.epoch }, {
    title: trans.__("Restart %1?", job.id),
    body: `${trans.__("Its ranks end at once, without a checkpoint.")} ${again} ${cost}`,
    accept: trans.__("Restart the job"),
    confirm: true
  });
}

/** Preview `rollback`: to move a run's head to another of its checkpoints. */
export function rollback(scene: IScene, to: CheckpointView): Preview {
  const { trans, run } = scene;
  const reason = barredFor(scene) ?? barredAsActive(scene) ?? barredAsForeign(scene, to);
  if (reason !== null) {
    return reason;
  }
  if (run?.head === to.id) {
    return barred(trans.__("The head of %1 is here already.", to.run));
  }
  return offer(scene, { verb: "rollback", run: to.run, ref: to.id, head: run?.head ?? "" }, {
    title: trans.__("Roll %1 back to step %2?", to.run, whole(to.step)),
    body: `${move(scene, to)} ${trans.__("The next Resume goes on from step %1.", whole(to.step))}`,
    accept: trans.__("Move the head"),
    confirm: true
  });
}

/** Preview `resume`: to submit a run's last cell again, from its head or another checkpoint. */
export function resume(scene: IScene, from: CheckpointView | null = null): Preview {
  const { trans, job, run } = scene;
  const reason =
    barredFor(scene) ??
    barredAsActive(scene) ??
    (from === null ? barredAsDone(scene) : barredAsForeign(scene, from));
  if (reason !== null) {
    return reason;
  }
  const start = from ?? headOf(scene);
  const moves = from !== null && from.id !== run?.head;
  const again = trans.__("The last cell of %1 is submitted again, as a new job.", job.run);
  const goes =
    start !== null
      ? trans.__("It goes on from step %1.", whole(start.step))
      : trans.__("It begins from step 0, since there is no checkpoint at the head.");
  const head = run?.head ?? "";
  const action = { verb: "resume", run: job.run, head } as const;
  return offer(scene, from === null ? action : { ...action, ref: from.id }, {
    title:
      start !== null
        ? trans.__("Resume %1 from step %2?", job.run, whole(start.step))
        : trans.__("Resume %1?", job.run),
    body: [again, moves ? move(scene, from) : "", goes].filter(Boolean).join(" "),
    accept: trans.__("Resume"),
    confirm: moves
  });
}

/** Preview `retry`: to run a failed job again whatever was decided, or to end a pause. */
export function retry(scene: IScene, memory = 0): Preview {
  const { trans, job, run } = scene;
  if (!scene.live) {
    return notLive(trans);
  }
  if (job.state === "queued") {
    return retryAtOnce(scene);
  }
  if (!isFinal(job.state)) {
    return barred(
      trans.__(
        "%1 is %2, so there is nothing to retry. Restart begins it again from its head.",
        job.id,
        word(scene)
      )
    );
  }
  if (job.state !== "failed") {
    const ended = trans.__("%1 has ended (%2), so there is nothing to retry.", job.id, word(scene));
    const wayOut = trans.__("Resume goes on from its head.");
    return barred(barredAsDone(scene) === null ? `${ended} ${wayOut}` : ended);
  }
  const newest = run?.jobs[run.jobs.length - 1];
  if (newest !== undefined && newest !== job.id) {
    return barred(trans.__("%1 came after %2: retry that one.", newest, job.id));
  }
  return barredAsActive(scene) ?? retryFailed(scene, memory);
}

/** Preview `fork`: to begin a new run at a checkpoint. Its name is still to be given. */
export function fork(scene: IScene, at: CheckpointView): Preview {
  const { trans } = scene;
  if (!scene.live) {
    return notLive(trans);
  }
  return offer(scene, { verb: "fork", run: at.run, ref: at.id }, {
    title: trans.__("Fork %1 at step %2", at.run, whole(at.step)),
    body: trans.__("A new run begins at this checkpoint. %1 stays as it is.", at.run),
    accept: trans.__("Fork"),
    confirm: false
  });
}

/** Preview `tag`: to name a checkpoint. The tag is still to be given. */
export function tag(scene: IScene, at: CheckpointView): Preview {
  const { trans } = scene;
  if (!scene.live) {
    return notLive(trans);
  }
  const found = offer(scene, { verb: "tag", run: at.run, ref: at.id }, {
    title: trans.__("Tag step %1 of %2", whole(at.step), at.run),
    body: trans.__("The checkpoint can then be named %1@TAG, and is kept.", at.run),
    accept: trans.__("Tag"),
    confirm: false
  });
  return { ...found, named: name => tagged(scene, found, at, name) };
}

// A tag that another checkpoint has is taken from it: that is asked first.
function tagged(scene: IScene, found: IOffer, at: CheckpointView, name: string): IOffer {
  const { trans, run } = scene;
  const offer = { ...found, action: { ...found.action, name } };
  const before = run?.checkpoints.find(c => c.id === run.tags[name]);
  if (before === undefined || before.id === at.id) {
    return offer;
  }
  const [from, to] = [whole(before.step), whole(at.step)];
  return {
    ...offer,
    title: trans.__("Move the tag %1?", name),
    body: trans.__(
      "%1 is step %2 now, and will be step %3. Without a tag, step %2 may be dropped one day.",
      name, from, to
    ),
    accept: trans.__("Move the tag"),
    confirm: true
  };
}

// --- the rules --------------------------------------------------------------------------------

function barredFor({ trans, run, live }: IScene): IBarred | null {
  if (!live) {
    return notLive(trans);
  }
  return run === null ? barred(trans.__("Its checkpoints aren't known yet.")) : null;
}

function barredAsActive({ trans, run }: IScene): IBarred | null {
  return run === null || run.active_job === null
    ? null
    : barred(trans.__("%1 hasn't ended yet. Cancel it first, or wait for it.", run.active_job));
}

function barredAsForeign({ trans, run }: IScene, checkpoint: CheckpointView): IBarred | null {
  return run === null || checkpoint.run === run.name
    ? null
    : barred(trans.__("This checkpoint is of run %1: fork it instead.", checkpoint.run));
}

// A run whose head is the end of a job that succeeded has nothing left to do.
function barredAsDone(scene: IScene): IBarred | null {
  const { trans, job, run } = scene;
  const head = headOf(scene);
  const own = run?.checkpoints.filter(c => c.job === job.id) ?? [];
  const atEnd = head !== null && head.id === own[own.length - 1]?.id;
  if (!atEnd || job.state !== "succeeded") {
    return null;
  }
  return barred(
    trans.__(
      "%1 finished at step %2: nothing is left to resume. Roll back first, or run the cell again.",
      job.id,
      whole(head.step)
    )
  );
}

function retryAtOnce(scene: IScene): Preview {
  const { trans, job } = scene;
  if (job.attempts === 0 || !job.reason.includes("(back-off)")) {
    return barred(trans.__("%1 waits for its turn, not after a failure.", job.id));
  }
  return offer(scene, { verb: "retry", job: job.id, epoch: job.epoch }, {
    title: trans.__("Retry %1 now?", job.id),
    body: trans.__("Its pause after the failure ends: it starts as soon as there is room."),
    accept: trans.__("Retry"),
    confirm: false
  });
}

function retryFailed(scene: IScene, memory: number): Preview {
  const { trans, job, failures } = scene;
  const failure = failures[failures.length - 1];
  const head = headOf(scene);
  const goes =
    head !== null
      ? trans.__("The job runs again, as a new one, from step %1.", whole(head.step))
      : trans.__("The job runs again, as a new one, from the beginning.");
  const more = memory > 0 ? trans.__("Each worker gets %1.", size(memory)) : "";
  const helps =
    failure === undefined || failure.spent !== "" || (memory > 0 && lacksMemory(failure.cause));
  const warning = helps
    ? ""
    : trans.__("By all that is known it will fail again in the same way.");
  const action = { verb: "retry", job: job.id, epoch: job.epoch } as const;
  return offer(scene, { ...action, anyway: !helps, memory }, {
    title: trans.__("Retry %1?", job.id),
    body: [warning, goes, more].filter(Boolean).join(" "),
    accept: helps ? trans.__("Retry") : trans.__("Retry anyway"),
    confirm: !helps
  });
}

function lacksMemory(cause: string): boolean {
  return cause === "out of memory" || cause === "allocation failed";
}

// --- the words --------------------------------------------------------------------------------

/** Return where a run's head goes, and that nothing is lost by it. */
function move(scene: IScene, to: CheckpointView): string {
  const { trans, run } = scene;
  const head = headOf(scene);
  const step = whole(to.step);
  if (head === null) {
    return trans.__("The head of %1 moves to step %2.", to.run, step);
  }
  const from = whole(head.step);
  const later = behindHead(timeline(run), to.id);
  if (later === null) {
    return trans.__(
      "The head of %1 moves from step %2 to step %3 on another branch. All checkpoints stay.",
      to.run,
      from,
      step
    );
  }
  const moves = trans.__("The head of %1 moves from step %2 back to step %3.", to.run, from, step);
  const stay = trans._n(
    "1 later checkpoint stays.",
    "%2 later checkpoints stay.",
    later,
    whole(later)
  );
  return `${moves} ${stay}`;
}
