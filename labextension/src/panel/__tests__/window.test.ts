import { RANK } from "../../protocol";
import { rankRow } from "../../__tests__/builders";
import { LINE, ordered, reveal, span } from "../window";

const HEIGHT = 16 * LINE;

describe("span", () => {
  it("draws all of a short table", () => {
    expect(span(0, HEIGHT, 5)).toEqual({ first: 0, end: 5 });
    expect(span(0, HEIGHT, 0)).toEqual({ first: 0, end: 0 });
  });

  it("draws about as many lines as are seen, wherever it is scrolled to", () => {
    for (let top = 0; top <= 1000 * LINE; top += 7) {
      const { first, end } = span(top, HEIGHT, 1000);
      const seen = Math.min(1000 * LINE - HEIGHT, top);
      expect(first * LINE).toBeLessThanOrEqual(seen);
      expect(end * LINE).toBeGreaterThanOrEqual(seen + HEIGHT);
      expect(end - first).toBeLessThanOrEqual(40);
    }
  });

  it("stays within the table if that has become shorter", () => {
    expect(span(900 * LINE, HEIGHT, 20).end).toBe(20);
  });

  it("stays the same when scrolled by less than a line", () => {
    expect(span(300 * LINE + 1, HEIGHT, 1000)).toEqual(span(300 * LINE + 9, HEIGHT, 1000));
  });
});

describe("reveal", () => {
  it("scrolls no further than it must", () => {
    expect(reveal(3, 0, HEIGHT)).toBe(0);
    expect(reveal(16, 0, HEIGHT)).toBe(LINE);
    expect(reveal(2, 10 * LINE, HEIGHT)).toBe(2 * LINE);
  });
});

describe("ordered", () => {
  const rows = [3, 1, 2, 2].map((step, rank) => rankRow(rank, step));

  it("orders by numbers and texts, ties by rank", () => {
    const ranks = (key: "step" | "host", down: boolean) =>
      ordered(rows, key, down).map(row => row[RANK.rank]);
    expect(ranks("step", false)).toEqual([1, 2, 3, 0]);
    expect(ranks("step", true)).toEqual([0, 2, 3, 1]);
    expect(ranks("host", true)).toEqual([0, 1, 2, 3]);
  });

  it("leaves the model as it is", () => {
    ordered(rows, "step", true);
    expect(rows.map(row => row[RANK.rank])).toEqual([0, 1, 2, 3]);
  });
});
