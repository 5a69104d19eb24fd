// The decisions of a panel that need no page.

import "./jsdom";

import { failure, runOf, checkpoint } from "../../__tests__/builders";
import { lastWriting } from "../../format";
import { timeline } from "../../lineage";
import type { LogText } from "../../protocol";
import { pieces } from "../ansi";
import { loading } from "../checkpoints";
import { folded } from "../folding";
import { moved, nearest } from "../graph";
import { arranged, columns, latest, samples } from "../lines";
import { BLOCK, MOST_BLOCKS, appended, opened, prepended } from "../output";

jest.mock("uplot", () => class {});

describe("folded", () => {
  const crash = (epoch: number) => failure({ epoch, at: epoch, cause: "crash", evidence: ["-11"] });

  it("makes equal failures in a row one, the newest first", () => {
    const folds = folded([crash(1), crash(2), failure({ epoch: 3 }), crash(4), crash(5), crash(6)]);
    expect(folds.map(({ failure, count }) => [failure.epoch, count])).toEqual([
      [6, 3],
      [3, 1],
      [2, 2]
    ]);
  });

  it("keeps those apart that differ in what matters", () => {
    expect(folded([crash(1), { ...crash(2), rank: 0 }])).toHaveLength(2);
    expect(folded([crash(1), { ...crash(2), decision: "stop" }])).toHaveLength(2);
    expect(folded([])).toEqual([]);
  });
});

describe("moved", () => {
  const run = runOf([20, 40, 60, 80]);
  const side = checkpoint(50, {
    id: "digits/00000050-e2",
    parent: run.checkpoints[1]?.id,
    at: 1055
  });
  const drawn = timeline({ ...run, checkpoints: [...run.checkpoints, side] });

  it("goes along the row and stops at its ends", () => {
    expect(moved(drawn, 0, "ArrowLeft")).toBe(0);
    expect(moved(drawn, 0, "ArrowRight")).toBe(1);
    expect(moved(drawn, 2, "Home")).toBe(0);
    expect(moved(drawn, 0, "End")).toBe(4);
    expect(moved(drawn, 0, "PageDown")).toBe(4);
    expect(moved(drawn, 0, "Tab")).toBeNull();
  });

  it("goes to the lane beside, and back", () => {
    const at = drawn.columns.get(side.id) as number;
    expect(drawn.nodes[at]?.lane).toBe(1);
    expect(moved(drawn, at - 1, "ArrowDown")).toBe(at);
    expect(drawn.nodes[moved(drawn, at, "ArrowUp") as number]?.lane).toBe(0);
    expect(moved(drawn, at, "ArrowDown")).toBe(at);
  });

  it("finds the nearest step, on the way to the head if there are two", () => {
    const step = (to: number) => drawn.nodes[nearest(drawn, to)]?.checkpoint.step;
    expect([step(1), step(61), step(1e9)]).toEqual([20, 60, 80]);
    const twice = checkpoint(60, {
      id: "digits/00000060-e2",
      parent: run.checkpoints[1]?.id,
      at: 1070
    });
    const both = timeline({ ...run, checkpoints: [...run.checkpoints, twice] });
    expect(both.nodes[nearest(both, 60)]?.onLine).toBe(true);
  });
});

describe("columns", () => {
  const own = { steps: [1, 2, 4], values: [1, null, 0.25] };
  const other = { steps: [2, 3, 4], values: [5, 6, -1] };

  it("puts curves over the steps of all", () => {
    const curves = [own, other].map((points, i) => ({ name: String(i), points }));
    expect(columns(curves, false)).toEqual([
      [1, 2, 3, 4],
      [1, null, undefined, 0.25],
      [undefined, 5, 6, -1]
    ]);
  });

  it("leaves out what a logarithm doesn't have, and shares nothing with the model", () => {
    const drawn = columns([{ name: "", points: other }], true);
    expect(drawn).toEqual([
      [2, 3, 4],
      [5, 6, null]
    ]);
    expect(drawn[0]).not.toBe(other.steps);
  });

  it("knows the latest number, and a few points from the first to the last", () => {
    expect(latest({ steps: [1, 2], values: [3, null] })).toBeNull();
    expect(latest({ steps: [], values: [] })).toBeUndefined();
    const long = Array.from({ length: 100 }, (_, i) => i);
    expect(samples({ steps: long, values: long }, 3).map(([step]) => step)).toEqual([0, 50, 99]);
    expect(samples({ steps: [7], values: [1] }, 3)).toEqual([[7, 1]]);
  });

  it("shows losses first", () => {
    expect(arranged(["lr", "accuracy", "val_loss", "loss"])).toEqual([
      "loss",
      "val_loss",
      "accuracy",
      "lr"
    ]);
  });
});

describe("output", () => {
  const LINES = Array.from({ length: 20_000 }, (_, i) => `line ${i} ünï\n`);
  const BYTES = new TextEncoder().encode(LINES.join(""));
  const piece = (offset: number, end: number, epoch = 1): LogText => ({
    text: new TextDecoder().decode(BYTES.slice(offset, end)),
    offset,
    next: end,
    size: BYTES.length,
    epoch,
    epochs: [epoch]
  });
  const shown = (output: ReturnType<typeof opened>) => output.blocks.flat().map(line => line.text);

  it("is the same however it was cut", () => {
    let output = opened(piece(0, 5));
    while (output.end < 9000) {
      output = appended(output, piece(output.end, whole(output.end + 7)));
    }
    expect(shown(output).join("")).toBe(new TextDecoder().decode(BYTES.slice(0, output.end)));
    expect(shown(output).slice(0, -1)).toEqual(LINES.slice(0, shown(output).length - 1));
  });

  // A piece never ends within a character.
  function whole(end: number): number {
    return ((BYTES[end] ?? 0) & 0xc0) === 0x80 ? end + 1 : end;
  }

  it("keeps no more lines than it may, the newest", () => {
    let output = opened(piece(0, 0));
    while (output.end < BYTES.length) {
      output = appended(
        output,
        piece(output.end, whole(Math.min(BYTES.length, output.end + 65_536)))
      );
    }
    expect(shown(output).length).toBeLessThanOrEqual(BLOCK * MOST_BLOCKS);
    expect(shown(output).slice(-1)).toEqual(LINES.slice(-1));
    expect(output.end).toBe(BYTES.length);
  });

  it("goes back, and then drops what is at the end", () => {
    let output = opened(piece(whole(BYTES.length - 65_536), BYTES.length), true);
    for (let i = 0; i < 12; i++) {
      const at = whole(Math.max(0, output.begin - 65_536));
      output = prepended(output, piece(at, output.begin));
    }
    expect(output.begin).toBe(0);
    expect(shown(output)).toEqual(LINES.slice(0, shown(output).length));
    expect(shown(output).length).toBeLessThanOrEqual(BLOCK * MOST_BLOCKS);
    const text = new TextDecoder().decode(BYTES.slice(0, output.end));
    expect(shown(output).join("")).toBe(text);
  });

  it("begins afresh with what doesn't join, or is of another attempt", () => {
    const output = opened(piece(0, 100));
    expect(appended(output, piece(500, 600)).begin).toBe(500);
    expect(appended(output, piece(100, 200, 2)).begin).toBe(100);
  });

  it("leaves the blocks alone that don't change", () => {
    const before = opened(piece(0, whole(20_000)));
    const after = appended(before, piece(before.end, whole(before.end + 100)));
    expect(after.blocks.slice(0, -1)).toEqual(before.blocks.slice(0, -1));
    expect(after.blocks[0]).toBe(before.blocks[0]);
  });
});

describe("pieces", () => {
  it("makes a terminal's colours classes, and drops all else", () => {
    expect(
      pieces("\x1b[1mbold\x1b[0m \x1b[38;5;1mx\x1b[31;1mred\x1b]0;title\x07!\x1b[2K\x1b[39m.")
    ).toEqual([
      { text: "bold", tone: "bold" },
      { text: " ", tone: "" },
      { text: "x", tone: "" },
      { text: "red", tone: "red" },
      { text: "!", tone: "red" },
      { text: ".", tone: "" }
    ]);
  });

  it("keeps what was written last, and nothing that turns the text", () => {
    expect(lastWriting("10 %\r50 %\r")).toBe("50 %");
    expect(pieces("a\u202eb\x00c")).toEqual([{ text: "abc", tone: "" }]);
  });
});

describe("loading", () => {
  it("is code that reads the checkpoint", () => {
    expect(loading(checkpoint(120))).toContain('resilient_nb.load("digits@120")');
  });

  it("names the attempt, too, if a rollback has left the checkpoint", () => {
    expect(loading(checkpoint(120), false)).toContain('"digits/00000120-e1"');
  });
});
