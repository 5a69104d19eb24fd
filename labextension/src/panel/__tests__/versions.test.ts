import { jobView } from "../../__tests__/builders";
import { Versions, onlyMoved } from "../versions";

describe("Versions", () => {
  it("counts what is new, and leaves the rest as it is", () => {
    const versions = new Versions();
    versions.renew(["head", "run"]);
    const { versions: first, wait } = versions.take(0);
    expect([first.head, first.run, first.notes, wait]).toEqual([1, 1, 0, null]);
    expect(versions.take(1).versions).toEqual(first);
  });

  it("has ranks drawn twice a second, points once, and tells how long that is to wait for", () => {
    const versions = new Versions();
    const drawn = { head: 0, ranks: 0, points: 0 };
    let before = versions.take(-1).versions;
    for (let now = 0; now < 4000; now += 250) {
      versions.renew(["head", "ranks", "points"]);
      const { versions: after } = versions.take(now);
      for (const piece of ["head", "ranks", "points"] as const) {
        drawn[piece] += after[piece] - before[piece];
      }
      before = after;
    }
    expect(drawn).toEqual({ head: 16, ranks: 8, points: 4 });
    const { wait } = versions.take(3750);
    expect(wait).toBeGreaterThan(0);
    expect(versions.take(3750 + (wait ?? 0)).versions.ranks).toBe(before.ranks + 1);
  });

  it("has all drawn at once when something has happened to the job", () => {
    const versions = new Versions();
    versions.renew(["ranks", "points"]);
    versions.take(0);
    versions.renew(["head", "facts", "ranks", "points"]);
    const { versions: now, wait } = versions.take(10);
    expect([now.ranks, now.points, wait]).toEqual([2, 2, null]);
  });
});

describe("onlyMoved", () => {
  it("tells a step from all else", () => {
    const before = jobView({ step: 1 });
    expect(onlyMoved(before, jobView({ step: 2, rate: 3, eta_s: 4 }))).toBe(true);
    expect(onlyMoved(before, jobView({ step: 2, state: "stopping" }))).toBe(false);
    expect(onlyMoved(before, jobView({ step: 2, alerts: ["Its loss is rising."] }))).toBe(false);
  });

  it("takes the same head again for something else that is new", () => {
    const head = jobView({});
    expect(onlyMoved(head, head)).toBe(false);
    expect(onlyMoved(null, head)).toBe(false);
  });
});
