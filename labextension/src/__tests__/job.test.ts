import { JobRecord } from "../job";
import type { JobDelta, JobView } from "../protocol";
import { MOST_POINTS, Series } from "../series";
import type { IJobChange, IJobModel } from "../tokens";
import { HOSTILE, checkpoint, delta, failure, jobView, randoms, rankRow, runOf } from "./builders";

/** All that a model shows, as plain values. */
function shown(model: IJobModel): unknown {
  const { head, failures, chaos, notes, run, ranks, series, unknown, stale } = model;
  const lines = [...series].map(([name, line]) => [name, [...line.steps], [...line.values]]);
  return JSON.parse(
    JSON.stringify({ head, failures, chaos, notes, run, ranks, lines, unknown, stale })
  );
}

function held(record: JobRecord): IJobModel {
  return record.hold(() => undefined);
}

function randomDelta(random: () => number, step: number): JobDelta {
  const some = (most: number): number => Math.floor(random() * most);
  const world = random() < 0.1 ? 1 + some(8) : null;
  const from = Math.max(0, step - (random() < 0.1 ? some(4000) : 0));
  const points = Array.from({ length: some(900) }, (_, at) => {
    return [from + at, random() < 0.05 ? null : random()] as [number, number | null];
  });
  return delta({
    full: random() < 0.05,
    head: random() < 0.3 ? jobView({ step }) : null,
    failures: random() < 0.1 ? [failure({ step })] : null,
    notes: random() < 0.1 ? [`at ${step}`] : null,
    run: random() < 0.1 ? runOf([some(100)]) : null,
    ranks: Array.from({ length: some(4) }, () => rankRow(some(world ?? 8), step)),
    world,
    points: { loss: points, [HOSTILE]: points.slice(0, 3) }
  });
}

test.each([1, 2, 3, 4, 5, 6, 7, 8])("a piece that comes again changes nothing (seed %p)", seed => {
  const random = randoms(seed);
  const once = new JobRecord("digits#1");
  const twice = new JobRecord("digits#1");
  let step = 0;
  for (let turn = 0; turn < 60; turn += 1) {
    step += Math.floor(random() * 700);
    const piece = randomDelta(random, step);
    once.apply(piece);
    twice.apply(piece);
    twice.apply(JSON.parse(JSON.stringify(piece)) as JobDelta);
    expect(shown(held(twice))).toEqual(shown(held(once)));
  }
});

test.each([11, 12, 13])("all that comes again from a full piece on changes nothing (seed %p)", seed => {
  const random = randoms(seed);
  const pieces = [delta({ full: true, head: jobView(), world: 4 })];
  for (let step = 0; step < 9000; step += 300) {
    pieces.push({ ...randomDelta(random, step), full: false });
  }
  const once = new JobRecord("digits#1");
  const again = new JobRecord("digits#1");
  pieces.forEach(piece => once.apply(piece));
  const cut = Math.floor(random() * pieces.length);
  [...pieces.slice(0, cut), ...pieces].forEach(piece => again.apply(piece));
  expect(shown(held(again))).toEqual(shown(held(once)));
});

test("it is told once what is new, to each holder, and not to those that have let go", () => {
  const record = new JobRecord("digits#1");
  const told: string[] = [];
  const listen = (name: string): IJobModel => {
    const model = held(record);
    model.changed.connect((_: IJobModel, change: IJobChange) => {
      told.push(`${name}: ${Object.entries(change).filter(([, is]) => is).map(([piece]) => piece)}`);
    });
    return model;
  };
  const first = listen("a");
  listen("b");
  record.apply(delta({ notes: ["one"] }));
  record.apply(delta({ ranks: [rankRow(0)], points: { loss: [[1, 0.5]] } }));
  record.flush();
  record.flush();
  first.dispose();
  first.dispose();
  record.apply(delta({ chaos: [] }));
  record.flush();
  expect(told).toEqual(["a: ranks,points,notes", "b: ranks,points,notes", "b: failures"]);
  expect(record.unheld).toBe(false);
});

test("a holder may let go while it is being told", () => {
  const record = new JobRecord("digits#1");
  const [first, second] = [held(record), held(record)];
  first.changed.connect(() => {
    first.dispose();
    second.dispose();
  });
  record.apply(delta({ notes: [] }));
  record.flush();
  expect(record.unheld).toBe(true);
});

test("points replace all known ones from the first new step on", () => {
  const record = new JobRecord("digits#1");
  record.apply(delta({ points: { loss: [[1, 5], [2, 4], [3, 3]] } }));
  record.apply(delta({ points: { loss: [[2, 40], [5, null]], accuracy: [] } }));
  const { series } = held(record);
  expect(series.get("loss")?.steps).toEqual([1, 2, 5]);
  expect(series.get("loss")?.values).toEqual([5, 40, null]);
  expect(series.get("accuracy")?.steps).toEqual([]);
});

test("a value that isn't finite is none", () => {
  const series = new Series();
  series.merge([[1, NaN], [2, Infinity], [3, null], [4, 0]]);
  expect(series.values).toEqual([null, null, null, 0]);
});

test("a long series covers all of the run evenly, with the newest point at its end", () => {
  const series = new Series();
  for (let step = 0; step < 600_000; step += 1000) {
    series.merge(Array.from({ length: 1000 }, (_, at) => [step + at, step + at]));
  }
  const { steps, values } = series;
  expect(steps.length).toBeLessThanOrEqual(MOST_POINTS);
  expect(steps.length).toBeGreaterThan(MOST_POINTS / 4);
  expect(steps[0]).toBe(0);
  expect(steps[steps.length - 1]).toBe(599_999);
  expect(values).toEqual(steps);
  const gaps = steps.slice(1, -1).map((step, at) => step - (steps[at] as number));
  expect(new Set(gaps).size).toBe(1);
});

test("a run that begins again from the start is shown in full again", () => {
  const series = new Series();
  series.merge(Array.from({ length: 9000 }, (_, step) => [step, step]));
  series.merge([[0, 1], [1, 2], [2, 3]]);
  expect(series.steps).toEqual([0, 1, 2]);
});

test("ranks from the new size of the world on are gone", () => {
  const record = new JobRecord("digits#1");
  record.apply(delta({ ranks: [0, 1, 2, 3].map(rank => rankRow(rank)), world: 4 }));
  record.apply(delta({ ranks: [rankRow(1, 77)], world: 2 }));
  expect(held(record).ranks).toEqual([rankRow(0), rankRow(1, 77)]);
});

test("a rank before which others are unknown leaves no hole", () => {
  const record = new JobRecord("digits#1");
  record.apply(delta({ ranks: [rankRow(2)] }));
  expect(held(record).ranks.map(row => row[0])).toEqual([0, 1, 2]);
});

test("what a notebook's file has is shown until the cluster tells", () => {
  const record = new JobRecord("digits#1");
  const model = held(record);
  const saved = jobView({
    state: "succeeded",
    ranks: [{ rank: 0, state: "running", host: "h" } as JobView["ranks"][0]],
    series: { loss: [[1, 0.5]] },
    checkpoints: [checkpoint(40), checkpoint(80, { is_head: true, tags: ["best"] })],
    failures: [failure()],
    notes: ["a note"]
  });
  record.showSaved({ view: saved, at: 99 });
  expect(model.stale).toBe(true);
  expect(model.savedAt).toBe(99);
  expect(model.head?.state).toBe("succeeded");
  expect(model.head?.ranks).toEqual([]);
  expect(model.ranks[0]?.[2]).toBe("h");
  expect(model.run?.head).toBe("digits/00000080-e1");
  expect(model.run?.tags).toEqual({ best: "digits/00000080-e1" });
  expect(model.series.get("loss")?.values).toEqual([0.5]);

  record.setUnknown();
  expect(model.unknown).toBe(true);
  expect(model.stale).toBe(true);

  record.apply(delta({ full: true, head: jobView({ step: 99 }), world: 0 }));
  expect(model.stale).toBe(false);
  expect(model.savedAt).toBeNull();
  expect(model.unknown).toBe(false);
  expect(model.head?.step).toBe(99);
  expect([...model.series.keys()]).toEqual([]);
  expect(model.notes).toEqual([]);

  record.showSaved({ view: saved, at: 99 });
  expect(model.head?.step).toBe(99);
  record.reset();
  expect(model.stale).toBe(true);
  expect(model.savedAt).toBe(99);
  expect(model.head?.state).toBe("succeeded");
});

test("a file of another version harms nothing", () => {
  const record = new JobRecord("digits#1");
  const view = { id: "digits#1", run: "digits", state: "odd" } as unknown as JobView;
  record.showSaved({ view, at: null });
  expect(held(record).stale).toBe(true);
  expect(held(record).run).toBeNull();
});

test("texts come out as they went in", () => {
  const record = new JobRecord("digits#1");
  record.apply(
    delta({ head: jobView({ label: HOSTILE }), notes: [HOSTILE], points: { [HOSTILE]: [[1, 1]] } })
  );
  const model = held(record);
  expect(model.head?.label).toBe(HOSTILE);
  expect(model.notes).toEqual([HOSTILE]);
  expect([...model.series.keys()]).toEqual([HOSTILE]);
});

test("how long a message of 1,000 ranks takes (printed)", () => {
  const record = new JobRecord("digits#1");
  const ranks = Array.from({ length: 1000 }, (_, rank) => rankRow(rank));
  record.apply(delta({ full: true, head: jobView(), ranks, world: 1000 }));
  held(record);
  const messages = Array.from({ length: 400 }, (_, turn) => {
    const points: JobDelta["points"] = {};
    ["loss", "accuracy", "lr"].forEach(name => (points[name] = [[turn, turn]]));
    return delta({ ranks: ranks.map((_row, rank) => rankRow(rank, turn)), points });
  });
  const began = performance.now();
  messages.forEach(message => {
    record.apply(message);
    record.flush();
  });
  const each = (performance.now() - began) / messages.length;
  process.stdout.write(`1,000 ranks: ${(1000 * each).toFixed(0)} µs a message\n`);
});
