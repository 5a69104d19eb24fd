import { forkName, forkProblem, runProblem, tagProblem } from "../names";
import { cancel, fork, restart, resume, retry, rollback, tag } from "../preview";
import type { IOffer, IScene, Preview } from "../scene";
import { sceneOf } from "../scene";
import type { IFeed, IJobModel } from "../tokens";
import { checkpoint, failure, jobView, runOf, trans } from "./builders";

const id = (step: number): string => `digits/${String(step).padStart(8, "0")}-e1`;

function scene(given: Partial<IScene> = {}): IScene {
  return {
    trans, job: jobView(), failures: [], run: runOf([40, 60, 80], { active_job: "digits#1" }),
    user: "ann", live: true, ...given
  };
}

/** A scene whose job has ended, so that its run is idle. */
function ended(given: Partial<IScene> = {}): IScene {
  return scene({
    job: jobView({ state: "cancelled", ended_at: 130 }), run: runOf([40, 60, 80]), ...given
  });
}

function offered(preview: Preview): IOffer {
  if (!preview.possible) {
    throw new Error(preview.why);
  }
  return preview;
}

const why = (preview: Preview): string => (preview.possible ? "" : preview.why);

test("cancel ends a job at a checkpoint; one that waits leaves the queue", () => {
  const offer = offered(cancel(scene()));
  expect(offer.action).toEqual({ verb: "cancel", job: "digits#1" });
  expect(offer.body).toBe(
    "It checkpoints at its next step, then ends. No work is lost: Resume goes on from there."
  );
  expect(offer.confirm).toBe(true);
  expect(offered(cancel(scene({ job: jobView({ state: "queued" }) }))).body).toContain("queue");
  expect(why(cancel(ended()))).toBe("digits#1 has ended already: cancelled.");
});

test("restart says what is made again", () => {
  const offer = offered(restart(scene()));
  expect(offer.action).toEqual({ verb: "restart", job: "digits#1", epoch: 1 });
  expect(offer.body).toBe(
    "Its ranks end at once, without a checkpoint. The job goes on from step 80. " +
      "12 steps are made again."
  );
  expect(offered(restart(scene({ job: jobView({ step: 81 }) }))).body).toContain("1 step is made");
  expect(offered(restart(scene({ job: jobView({ step: 80 }) }))).body).toContain("No step is made");
  expect(offered(restart(scene({ run: runOf([]) }))).body).toContain(
    "begins again from step 0. 92 steps are made again."
  );
  expect(why(restart(scene({ job: jobView({ state: "queued" }) })))).toContain("waits in the queue");
  expect(why(restart(ended()))).toContain("Resume goes on");
});

test("rollback says from where to where, and what stays", () => {
  const offer = offered(rollback(ended(), checkpoint(40)));
  expect(offer.action).toEqual({ verb: "rollback", run: "digits", ref: id(40), head: id(80) });
  expect(offer.body).toBe(
    "The head of digits moves from step 80 back to step 40. 2 later checkpoints stay. " +
      "The next Resume goes on from step 40."
  );
  expect(offer.confirm).toBe(true);
  expect(offered(rollback(ended(), checkpoint(60))).body).toContain("1 later checkpoint stays.");
});

test("rollback to what isn't behind the head says so", () => {
  const run = runOf([40, 60, 80], { head: id(40) });
  expect(offered(rollback(ended({ run }), checkpoint(80))).body).toContain(
    "from step 40 to step 80 on another branch. All checkpoints stay."
  );
  const fresh = offered(rollback(ended({ run: runOf([40], { head: null }) }), checkpoint(40)));
  expect(fresh.action.head).toBe("");
  expect(fresh.body).toContain("The head of digits moves to step 40.");
});

test("only idle runs roll back and resume, and only to checkpoints of their own", () => {
  const busy = "digits#1 hasn't ended yet. Cancel it first, or wait for it.";
  expect(why(rollback(scene(), checkpoint(40)))).toBe(busy);
  expect(why(resume(scene()))).toBe(busy);
  expect(why(resume(scene(), checkpoint(40)))).toBe(busy);
  expect(why(rollback(ended(), checkpoint(80)))).toBe("The head of digits is here already.");
  const foreign = checkpoint(10, { run: "other" });
  expect(why(rollback(ended(), foreign))).toContain("fork it instead");
  expect(why(resume(ended(), foreign))).toContain("fork it instead");
  expect(why(rollback(ended({ run: null }), checkpoint(40)))).toContain("aren't known yet");
});

test("resume goes on from the head, or moves it", () => {
  const plain = offered(resume(ended()));
  expect(plain.action).toEqual({ verb: "resume", run: "digits", head: id(80) });
  expect(plain.title).toBe("Resume digits from step 80?");
  expect(plain.confirm).toBe(false);
  const older = offered(resume(ended(), checkpoint(40)));
  expect(older.action).toMatchObject({ ref: id(40), head: id(80) });
  expect(older.body).toContain("back to step 40. 2 later checkpoints stay. It goes on from step 40.");
  expect(older.confirm).toBe(true);
  expect(offered(resume(ended({ run: runOf([]) }))).body).toContain("begins from step 0");
});

test("a run that has finished has nothing to resume, but can go on from before", () => {
  const done = ended({ job: jobView({ state: "succeeded" }) });
  expect(why(resume(done))).toContain("digits#1 finished at step 80: nothing is left to resume");
  expect(why(retry(done))).toBe("digits#1 has ended (succeeded), so there is nothing to retry.");
  expect(offered(resume(done, checkpoint(40))).action.ref).toBe(id(40));
  const back = ended({
    job: jobView({ state: "succeeded" }), run: runOf([40, 60, 80], { head: id(60) })
  });
  expect(resume(back).possible).toBe(true);
});

test("retry warns of a failure that will come again", () => {
  const failed = ended({ job: jobView({ state: "failed", epoch: 3 }), failures: [failure()] });
  const offer = offered(retry(failed));
  expect(offer.action).toEqual({ verb: "retry", job: "digits#1", epoch: 3, anyway: true, memory: 0 });
  expect(offer.accept).toBe("Retry anyway");
  expect(offer.body).toContain("it will fail again");
  expect(offer.confirm).toBe(true);
  const spent = offered(retry({ ...failed, failures: [failure({ spent: "3 retries" })] }));
  expect(spent.action.anyway).toBe(false);
  expect(spent.confirm).toBe(false);
});

test("retry with more memory helps if that was missing", () => {
  const failures = [failure({ cause: "out of memory" })];
  const failed = ended({ job: jobView({ state: "failed" }), failures });
  const offer = offered(retry(failed, 4 * 2 ** 30));
  expect(offer.action).toMatchObject({ anyway: false, memory: 4 * 2 ** 30 });
  expect(offer.body).toContain("Each worker gets 4.00 GiB.");
  expect(offered(retry({ ...failed, failures: [failure()] }, 1e9)).action.anyway).toBe(true);
});

test("retry is for failed jobs, the newest of their run, and for pauses", () => {
  expect(why(retry(scene()))).toContain("is running, so there is nothing to retry");
  expect(why(retry(ended()))).toContain("has ended (cancelled), so there is nothing to retry");
  const failed = ended({ job: jobView({ state: "failed" }) });
  const later = runOf([40], { jobs: ["digits#1", "digits#2"] });
  expect(why(retry({ ...failed, run: later }))).toBe("digits#2 came after digits#1: retry that one.");
  expect(why(retry({ ...failed, run: runOf([40], { active_job: "digits#2" }) }))).toContain(
    "hasn't ended"
  );
  const pausing = jobView({ state: "queued", reason: "Retries in 3.0 s (back-off)." });
  expect(offered(retry(scene({ job: pausing }))).action).toEqual({
    verb: "retry", job: "digits#1", epoch: 1
  });
  expect(why(retry(scene({ job: jobView({ state: "queued", reason: "No room." }) })))).toContain(
    "waits for its turn"
  );
});

test("anybody may fork; what is somebody else's is said, and the server decides", () => {
  const bob = ended({ user: "bob" });
  expect(offered(fork(bob, checkpoint(40))).action).toEqual({
    verb: "fork", run: "digits", ref: id(40)
  });
  expect(offered(fork(bob, checkpoint(40))).body).not.toContain("administrators");
  const offer = offered(tag(bob, checkpoint(40)));
  expect(offer.body).toContain("It is ann's: only ann and administrators may do this.");
  expect(offer.confirm).toBe(true);
  expect(offered(tag(ended(), checkpoint(40))).confirm).toBe(false);
});

test("a tag that another checkpoint has is moved only after a question", () => {
  const run = runOf([40, 60, 80], { tags: { production: id(40) } });
  const named = (step: number, name: string): IOffer =>
    offered(tag(ended({ run }), checkpoint(step))).named?.(name) as IOffer;
  const moved = named(60, "production");
  expect(moved.confirm).toBe(true);
  expect(moved.body).toContain("production is step 40 now, and will be step 60.");
  expect(moved.action).toEqual({ verb: "tag", run: "digits", ref: id(60), name: "production" });
  expect(named(40, "production").confirm).toBe(false);
  expect(named(60, "new").confirm).toBe(false);
});

test("nothing can be done with what isn't live", () => {
  const away = scene({ live: false });
  const all = [
    cancel(away), restart(away), retry(away), resume(away), rollback(away, checkpoint(40)),
    fork(away, checkpoint(40)), tag(away, checkpoint(40))
  ];
  expect(new Set(all.map(why)).size).toBe(1);
  expect(why(cancel(away))).toContain("isn't live");
});

test("a scene is live if the feed is, and the cluster knows the job", () => {
  const feed = { contact: { kind: "live" }, user: "ann" } as IFeed;
  const model = { head: jobView(), failures: [], run: null, stale: false, unknown: false };
  const of = (given: object, f: IFeed = feed): IScene | null =>
    sceneOf(trans, f, { ...model, ...given } as unknown as IJobModel);
  expect(of({})?.live).toBe(true);
  expect(of({ stale: true })?.live).toBe(false);
  expect(of({ unknown: true })?.live).toBe(false);
  expect(of({}, { contact: { kind: "connecting" }, user: "" } as IFeed)?.live).toBe(false);
  expect(of({ head: null })).toBeNull();
});

test("names follow the rules of the control plane", () => {
  expect(runProblem(trans, "digits-2.b_c")).toBe("");
  ["", "-a", "a b", "a/b", "ä", "a".repeat(65), "a\n"].forEach(name => {
    expect(runProblem(trans, name)).toContain("Use 1 to 64 letters");
  });
  expect(tagProblem(trans, "best")).toBe("");
  expect(tagProblem(trans, "60")).toContain("would read as a step");
  expect(forkName("digits", new Set(["digits", "digits-2"]))).toBe("digits-3");
  expect(runProblem(trans, forkName("a".repeat(64), new Set()))).toBe("");
  const known = new Set(["digits-2"]);
  expect(forkProblem(trans, "digits-3", known)).toBe("");
  expect(forkProblem(trans, "digits-2", known)).toContain("digits-2 exists already");
  expect(forkProblem(trans, "-a", known)).toContain("Use 1 to 64 letters");
});
