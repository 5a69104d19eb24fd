import { behindHead, timeline } from "../lineage";
import type { CheckpointView } from "../protocol";
import { checkpoint, randoms, runOf } from "./builders";

const id = (step: number, epoch = 1): string => `digits/${String(step).padStart(8, "0")}-e${epoch}`;

/** 20 → 40 → 60 → 80, rolled back to 40, then 60 and 80 again as e2. */
function rolledBack(): CheckpointView[] {
  const first = runOf([20, 40, 60, 80]).checkpoints;
  const again = [
    checkpoint(60, { id: id(60, 2), at: 2000, parent: id(40) }),
    checkpoint(80, { id: id(80, 2), at: 2100, parent: id(60, 2) })
  ];
  return [...first, ...again];
}

test("without a run, or without checkpoints, there is nothing to draw", () => {
  expect(timeline(null)).toMatchObject({ nodes: [], lanes: 0, head: null, origins: [] });
  expect(timeline(runOf([]))).toMatchObject({ nodes: [], lanes: 0, head: null });
});

test("a straight run is one lane, all of it on the way to the head", () => {
  const drawn = timeline(runOf([20, 40, 60]));
  expect(drawn.nodes.map(n => [n.column, n.lane, n.parent, n.onLine, n.isHead])).toEqual([
    [0, 0, null, true, false],
    [1, 0, 0, true, false],
    [2, 0, 1, true, true]
  ]);
  expect(drawn.lanes).toBe(1);
  expect(drawn.origins).toEqual([{ column: 0, from: null }]);
});

test("after a rollback, what comes later stays in its lane until the run goes on", () => {
  const drawn = timeline(runOf([20, 40, 60, 80], { head: id(40) }));
  expect(drawn.nodes.map(n => n.lane)).toEqual([0, 0, 0, 0]);
  expect(drawn.nodes.map(n => n.onLine)).toEqual([true, true, false, false]);
  expect(drawn.head).toBe(1);
});

test("what a rollback has left behind gets a lane of its own", () => {
  const drawn = timeline(runOf([], { checkpoints: rolledBack(), head: id(80, 2) }));
  expect(drawn.nodes.map(n => n.lane)).toEqual([0, 0, 1, 1, 0, 0]);
  expect(drawn.nodes.map(n => n.onLine)).toEqual([true, true, false, false, true, true]);
  expect(drawn.nodes[4]?.parent).toBe(1);
  expect(drawn.lanes).toBe(2);
});

test("how far the head is ahead is known of what leads to it", () => {
  const drawn = timeline(runOf([], { checkpoints: rolledBack(), head: id(80, 2) }));
  expect(behindHead(drawn, id(40))).toBe(2);
  expect(behindHead(drawn, id(80, 2))).toBe(0);
  expect(behindHead(drawn, id(60))).toBeNull();
  expect(behindHead(drawn, "elsewhere")).toBeNull();
});

test("forks are marks, and a fork's first checkpoint says where it comes from", () => {
  const parent = timeline(runOf([20, 40], { forks: { b: id(20), a: id(20), c: id(40) } }));
  expect(parent.nodes.map(n => n.forks)).toEqual([["b", "a"], ["c"]]);
  const fork = timeline(
    runOf([], { head: id(20), forked_from: id(20), checkpoints: [] })
  );
  expect(fork.head).toBeNull();
  const later = timeline(runOf([], { checkpoints: [checkpoint(60, { parent: id(20) })] }));
  expect(later.origins).toEqual([{ column: 0, from: id(20) }]);
});

test("a run that started over has a lane for each line; that of the head is the first", () => {
  const over = [...runOf([20, 40]).checkpoints, checkpoint(20, { id: id(20, 2), parent: null })];
  const drawn = timeline(runOf([], { checkpoints: over, head: id(20, 2) }));
  expect(drawn.nodes.map(n => n.lane)).toEqual([1, 1, 0]);
});

test("without a head the newest line goes straight on", () => {
  const drawn = timeline(runOf([], { checkpoints: rolledBack(), head: null }));
  expect(drawn.nodes.map(n => n.lane)).toEqual([0, 0, 1, 1, 0, 0]);
  expect(drawn.nodes.some(n => n.onLine)).toBe(false);
});

test("parents that run in a circle trap nothing", () => {
  const a = checkpoint(1, { parent: id(2) });
  const b = checkpoint(2, { parent: id(1) });
  const drawn = timeline(runOf([], { checkpoints: [a, b], head: id(2) }));
  expect(drawn.nodes.map(n => n.parent)).toEqual([null, 0]);
});

/** A history in which somebody rolls back now and then. */
function history(count: number, seed: number): CheckpointView[] {
  const random = randoms(seed);
  const made: CheckpointView[] = [];
  for (let at = 0; at < count; at += 1) {
    const back = random() < 0.2 ? Math.floor(random() * made.length) : made.length - 1;
    made.push(checkpoint(at, { parent: made[back]?.id ?? null }));
  }
  return made;
}

test.each([1, 2, 3, 4, 5])("branches that are in one lane don't overlap (seed %p)", seed => {
  const checkpoints = history(200, seed);
  const drawn = timeline(runOf([], { checkpoints, head: checkpoints[150]?.id ?? null }));
  for (const node of drawn.nodes) {
    if (node.parent !== null) {
      const parent = drawn.nodes[node.parent];
      const between = drawn.nodes.slice(node.parent + 1, node.column);
      // An edge runs in its child's lane.
      expect(between.filter(n => n.lane === node.lane)).toEqual([]);
      expect(parent?.column).toBeLessThan(node.column);
    }
  }
  expect(drawn.nodes.filter(n => n.onLine).every(n => n.lane === 0)).toBe(true);
});

test("how long 500 checkpoints take (printed)", () => {
  const checkpoints = history(500, 9);
  const run = runOf([], { checkpoints, head: checkpoints[499]?.id ?? null });
  const began = performance.now();
  for (let turn = 0; turn < 20; turn += 1) {
    timeline(run);
  }
  const each = (performance.now() - began) / 20;
  process.stdout.write(`500 checkpoints: ${each.toFixed(2)} ms\n`);
});
