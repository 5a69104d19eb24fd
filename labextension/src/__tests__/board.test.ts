import { BoardModel } from "../board";
import type { ClusterView } from "../protocol";
import { HOSTILE, board, boardRow, randoms } from "./builders";

const ids = (model: BoardModel): string[] => model.rows.map(row => row.id);

test("rows: what runs by its start, the queue by position, what has ended from the newest on", () => {
  const model = new BoardModel();
  model.apply(
    board({
      full: true,
      rows: [
        boardRow("old#1", { state: "succeeded", ended_at: 10 }),
        boardRow("second#1", { state: "queued", position: 2 }),
        boardRow("new#1", { state: "failed", ended_at: 20 }),
        boardRow("late#1", { state: "running", started_at: 30 }),
        boardRow("unplaced#1", { state: "queued", position: null }),
        boardRow("first#1", { state: "queued", position: 1 }),
        boardRow("early#1", { state: "stopping", started_at: 5 }),
        boardRow("fresh#1", { state: "starting", started_at: null })
      ]
    })
  );
  expect(ids(model)).toEqual([
    "early#1", "late#1", "fresh#1", "first#1", "second#1", "unplaced#1", "new#1", "old#1"
  ]);
});

test("the order doesn't depend on the order in which rows come", () => {
  const random = randoms(7);
  const states = ["running", "queued", "failed"] as const;
  const rows = Array.from({ length: 60 }, (_, at) =>
    boardRow(`run-${at}#1`, {
      state: states[at % 3], started_at: at % 5, position: at % 7, ended_at: at % 4
    })
  );
  const first = new BoardModel();
  first.apply(board({ rows }));
  for (let turn = 0; turn < 5; turn += 1) {
    const other = new BoardModel();
    const shuffled = rows.map(row => [random(), row] as const).sort((a, b) => a[0] - b[0]);
    shuffled.forEach(([, row]) => other.apply(board({ rows: [row] })));
    expect(ids(other)).toEqual(ids(first));
  }
});

test("a piece that is null is as it was; full forgets; the same again changes nothing", () => {
  const model = new BoardModel();
  const cluster = { address: "tcp://a" } as ClusterView;
  const first = board({
    full: true, rows: [boardRow("a#1"), boardRow("b#1")], cluster, leases: [], shares: [],
    groups: { ann: ["vision"] }
  });
  const second = board({ rows: [boardRow("a#1", { step: 50 })], gone: ["b#1", "never#1"] });
  [first, second, second].forEach(piece => model.apply(piece));
  expect(ids(model)).toEqual(["a#1"]);
  expect(model.rows[0]?.step).toBe(50);
  expect(model.cluster).toBe(cluster);
  expect(model.groupsOf("ann")).toEqual(["vision"]);
  expect(model.groupsOf("__proto__")).toEqual([]);
  model.apply(board({ full: true }));
  expect(model.rows).toEqual([]);
  expect(model.cluster).toBeNull();
  expect(model.groupsOf("ann")).toEqual([]);
});

test("it tells once for each message, and gives a new list only if rows are new", () => {
  const model = new BoardModel();
  let told = 0;
  model.changed.connect(() => (told += 1));
  model.apply(board({ rows: [boardRow("a#1")] }));
  model.apply(board({ rows: [boardRow("b#1", { label: HOSTILE })] }));
  model.flush();
  model.flush();
  expect(told).toBe(1);
  const rows = model.rows;
  model.apply(board({ leases: [{ host: "h", job: "a#1", slots: 1 }] }));
  expect(model.rows).toBe(rows);
  model.apply(board({ rows: [boardRow("a#1", { step: 11 })] }));
  expect(model.rows).not.toBe(rows);
  expect(model.rows[1]?.label).toBe(HOSTILE);
});
