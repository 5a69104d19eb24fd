import { boardRow, trans } from "../../__tests__/builders";
import type { AlertsReport, BoardRow } from "../../protocol";
import { badge } from "../badge";
import { listed, progress, toggled } from "../filter";
import type { Chip, IFilter, IViewer } from "../filter";
import { moved } from "../JobList";
import { line } from "../words";

const ANN: IViewer = { name: "ann", groupsOf: user => (user === "ann" ? ["vision"] : []) };

const ROWS: readonly BoardRow[] = [
  boardRow("digits#1"),
  boardRow("speech#1", { user: "bob", group: "audio", state: "queued" }),
  boardRow("faces#1", { user: "bob", group: "vision", state: "failed", cause: "out of memory" }),
  boardRow("digits#0", { state: "succeeded" }),
  boardRow("old#1", { state: "cancelled" })
];

function filter(given: Partial<IFilter> = {}): IFilter {
  return { text: "", scope: "everyone", chips: new Set<Chip>(), ...given };
}

function ids(given: Partial<IFilter>, viewer = ANN): string[] {
  return listed(ROWS, filter(given), viewer).rows.map(row => row.id);
}

test("a scope lists one's own jobs, those of one's groups too, or all, in their order", () => {
  expect(ids({ scope: "mine" })).toEqual(["digits#1", "digits#0", "old#1"]);
  expect(ids({ scope: "groups" })).toEqual(["digits#1", "faces#1", "digits#0", "old#1"]);
  expect(ids({ scope: "everyone" })).toEqual(ROWS.map(row => row.id));
});

test("as long as nobody knows who looks, nothing is hidden", () => {
  expect(ids({ scope: "mine" }, { name: "", groupsOf: () => [] })).toHaveLength(ROWS.length);
});

test("every word of the text must be somewhere in the row, whatever its case", () => {
  expect(ids({ text: "MEMORY  vision" })).toEqual(["faces#1"]);
  expect(ids({ text: "digits bob" })).toEqual([]);
});

test("chips choose states; their counts are of the scope and the text, pressed or not", () => {
  const found = listed(ROWS, filter({ scope: "mine", chips: new Set<Chip>(["done"]) }), ANN);
  expect(found.rows.map(row => row.id)).toEqual(["digits#0", "old#1"]);
  expect(found.counts).toEqual({ running: 1, queued: 0, failed: 0, done: 2 });
  expect(found.others).toBe(2);
});

test("a chip that is pressed again is released", () => {
  const once = toggled(new Set<Chip>(), "failed");
  expect([...once]).toEqual(["failed"]);
  expect([...toggled(once, "failed")]).toEqual([]);
});

test("progress is known only if the total is, and never more than all", () => {
  expect(progress(boardRow("a#1", { step: 30, total_steps: 120 }))).toBe(0.25);
  expect(progress(boardRow("a#1", { step: 130, total_steps: 120 }))).toBe(1);
  expect(progress(boardRow("a#1", { total_steps: null }))).toBeNull();
});

test("keys move the selection, and stay within the list", () => {
  expect(moved("ArrowDown", -1, 5, 3)).toBe(0);
  expect(moved("ArrowDown", 4, 5, 3)).toBe(4);
  expect(moved("PageUp", 1, 5, 3)).toBe(0);
  expect(moved("End", 1, 5, 3)).toBe(4);
  expect(moved("Home", 4, 5, 3)).toBe(0);
  expect(moved("x", 4, 5, 3)).toBeNull();
  expect(moved("ArrowDown", 0, 0, 3)).toBeNull();
});

test("a row says what matters in its state", () => {
  const running = line(trans, boardRow("a#1"), 0);
  expect(running).toContain("step 10 of 100");
  expect(running).toContain("22 s left");
  const queued = boardRow("a#1", {
    state: "queued", position: 2, starts_at: 1000, reason: "Needs 4 workers; 2 are free."
  });
  expect(line(trans, queued, 820)).toBe(
    "place 2 · starts in 3 min · Needs 4 workers; 2 are free."
  );
  expect(line(trans, queued, 1010)).toContain("starts any moment");
  expect(line(trans, { ...queued, starts_guess: "b#1" }, 820)).toContain("in 3 min (a guess) ·");
  const unknown = { ...queued, starts_at: null, starts_guess: "b#1" };
  expect(line(trans, unknown, 820)).not.toContain("guess");
  const failed = boardRow("a#1", { state: "failed", cause: "out of memory" });
  expect(line(trans, failed, 0)).toBe("out of memory");
  const done = boardRow("a#1", { state: "succeeded", step: 100, started_at: 10, ended_at: 82 });
  expect(line(trans, done, 0)).toBe("100 steps · took 1 min 12 s");
});

test("the icon tells how many jobs run, and before that that something is wrong", () => {
  expect(badge(ROWS, null, trans)).toEqual({ text: "1", caption: "resilient_nb: 1 job runs" });
  expect(badge([], null, trans).text).toBe("");
  const many = Array.from({ length: 120 }, (_, i) => boardRow(`a#${i}`));
  expect(badge(many, null, trans).text).toBe("99+");
  const firing = { firing: [{}], recent: [], channels: [] } as unknown as AlertsReport;
  expect(badge(ROWS, firing, trans)).toEqual({
    text: "!",
    caption: "resilient_nb: 1 job runs, 1 alert"
  });
});
