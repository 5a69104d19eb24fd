import { FakeFeed, press, stage, until } from "./stage";
import type { IStage } from "./stage";

import { HOSTILE, boardRow, checkpoint, failure, jobView, rankRow, runOf } from "../../__tests__/builders";
import { RANK } from "../../protocol";
import type { BoardRow } from "../../protocol";
import { Refusal } from "../../tokens";

jest.mock(
  "uplot",
  () =>
    class {
      width = 300;
      destroy() {}
      setData() {}
      setCursor() {}
      redraw() {}
      valToPos() {
        return 0;
      }
    }
);

let shown: IStage;
afterEach(() => shown.panel.dispose());

/** Its parts come one after the other. */
const there = (selector: string) => until(() => shown.node.querySelector(selector) !== null);

const text = (selector: string) => shown.find(selector).textContent ?? "";

describe("a running job", () => {
  beforeEach(async () => {
    shown = stage({
      run: runOf([20, 40, 60], { active_job: "digits#1" }),
      ranks: [rankRow(0), rankRow(1)],
      points: {
        loss: [
          [1, 2],
          [2, 0.1234]
        ]
      }
    });
    await there(".rnb-Plot");
    await there("[role=grid]");
  });

  it("is a region with state, steps and a progress bar", () => {
    expect(shown.find("[role=region]").getAttribute("aria-label")).toBe("Job digits#1");
    expect(text("[data-rnb=state]")).toBe("running");
    expect(text("[data-rnb=steps]")).toBe("step 92 of 500");
    expect(shown.find("[role=progressbar]").getAttribute("aria-valuenow")).toBe("92");
    expect(shown.node.querySelector("[data-rnb=offline]")).toBeNull();
  });

  it("draws what is told, and keeps the focus", async () => {
    const button = shown.button("Cancel");
    button.focus();
    shown.tell({ head: jobView({ step: 93 }), ranks: [rankRow(1, 93)] });
    await until(() => text("[data-rnb=steps]") === "step 93 of 500");
    expect(document.activeElement).toBe(button);
    expect(shown.button("Cancel")).toBe(button);
  });

  it("draws nothing while it is hidden, and all of it after", async () => {
    jest.useFakeTimers();
    shown.panel.hide();
    shown.tell({ head: jobView({ step: 94 }) });
    jest.advanceTimersByTime(5000);
    jest.useRealTimers();
    expect(text("[data-rnb=steps]")).toBe("step 92 of 500");
    shown.panel.show();
    await until(() => text("[data-rnb=steps]") === "step 94 of 500");
  });

  it("says why a button can't be pressed, and does nothing then", async () => {
    const resume = shown.button("Resume");
    expect(resume.getAttribute("aria-disabled")).toBe("true");
    expect(resume.title).toContain("hasn't ended yet");
    resume.click();
    await until(() => text("[data-rnb=said]").includes("hasn't ended yet"));
    expect(shown.feed.acted).toEqual([]);
  });

  it("asks before it cancels, and says what came of it", async () => {
    shown.actions.confirm.mockResolvedValueOnce(false);
    shown.button("Cancel").click();
    await until(() => shown.actions.confirm.mock.calls.length === 1);
    expect(shown.feed.acted).toEqual([]);
    shown.button("Cancel").click();
    await until(() => text("[data-rnb=said]").includes("It is done."));
    expect(shown.feed.acted).toEqual([{ verb: "cancel", job: "digits#1" }]);
  });

  it("tells why an action was refused", async () => {
    shown.feed.answer = () => Promise.reject(new Refusal("forbidden", "It is bob's."));
    shown.button("Restart").click();
    await until(() => text("[data-rnb=said]").includes("It is bob's."));
  });

  it("says that what is shown isn't live, and since when", async () => {
    shown.feed.contact = { kind: "offline", since: 125 };
    shown.feed.contactChanged.emit(shown.feed.contact);
    await until(() => shown.node.querySelector("[data-rnb=offline]") !== null);
    expect(text("[data-rnb=offline]")).toContain("The job itself goes on.");
    expect(shown.button("Cancel").getAttribute("aria-disabled")).toBe("true");
    expect(text("[data-rnb=steps]")).toBe("step 92 of 500");
  });

  it.each([
    ["lost#1", "The cluster has no job digits#1."],
    ["digits#1", "It was submitted to another cluster: digits#1 of the cluster that is up"]
  ])("tells a job that isn't there from one of another cluster", async (listed, said) => {
    (shown.feed.board.rows as BoardRow[]).push(boardRow(listed));
    shown.feed.record("digits#1").setUnknown();
    shown.feed.contactChanged.emit(shown.feed.contact);
    await until(() => shown.node.querySelector("[data-rnb=offline]") !== null);
    expect(text("[data-rnb=offline]")).toContain(said);
  });

  it("says a plot in words", () => {
    expect(shown.find("[role=img]").getAttribute("aria-label")).toBe(
      "loss over steps, latest 0.1234"
    );
    expect(text(".rnb-Plot table")).toContain("0.1234");
  });

  it("leaves nothing behind", () => {
    const { panel, node } = shown;
    panel.dispose();
    expect(node.childElementCount).toBe(0);
    expect(panel.model.isDisposed).toBe(true);
    expect(shown.feed.record("digits#1").unheld).toBe(true);
  });
});

describe("a waiting job", () => {
  it("says why, when it is expected to start, and on demand what would help", async () => {
    const reason = "It needs 4 slots; 2 are free.";
    shown = stage({
      head: jobView({ state: "queued", step: 0, attempts: 0, reason, position: 2, starts_at: 1000 })
    });
    expect(text("[data-rnb=waiting]")).toContain(reason);
    expect(text("[data-rnb=waiting]")).toContain("Number 2 in the queue.");
    shown.button("More").click();
    await until(() => text("[data-rnb=waiting]").includes("Wait."));
    expect(shown.find("[data-rnb=waiting]").getAttribute("role")).toBe("status");
  });
});

describe("an expected start", () => {
  const waiting = { state: "queued", step: 0, attempts: 0, starts_at: 730 } as const;

  it("is said as it is if nothing was guessed", () => {
    shown = stage({ head: jobView(waiting) });
    expect(text("[data-rnb=waiting]")).toMatch(/Expected to start: .* in about 10 min\. /);
  });

  it("is called a guess where one went into it, with the job that nobody knows the end of", () => {
    shown = stage({ head: jobView({ ...waiting, starts_guess: `long#1${HOSTILE}` }) });
    expect(text("[data-rnb=waiting]")).toContain(
      "in about 10 min (a guess: nobody knows how long long#1<img src=x"
    );
    expect(text("[data-rnb=waiting]")).not.toContain("\u202e");
  });
});

describe("what a notebook's file has", () => {
  it.each([
    [1e9, "from the notebook's file, as of "],
    [null, "from the notebook's file."]
  ])("says of when it is, if the file says: %p", async (at, said) => {
    const feed = new FakeFeed();
    feed.contact = { kind: "down", why: "There is no cluster.", noCluster: true };
    feed.record("digits#1").showSaved({ view: jobView(), at });
    shown = stage({}, {}, feed);
    expect(text("[data-rnb=offline]")).toContain(said);
    expect(text("[data-rnb=offline]").includes("2001")).toBe(at !== null);
    shown.feed.contact = { kind: "live" };
    shown.tell({ full: true, head: jobView() });
    await until(() => shown.node.querySelector("[data-rnb=offline]") === null);
  });
});

describe("a failed job", () => {
  it("shows cause, evidence and decision, folds equal failures, and offers to retry", async () => {
    const crashes = [1, 2, 3].map(epoch => failure({ epoch, at: 100 + epoch, cause: "crash" }));
    const last = failure({
      epoch: 4,
      at: 125,
      cause: "error in the cell",
      decision: "stop",
      evidence: ["rank 1 raised it"],
      message: "ValueError: no"
    });
    shown = stage({
      head: jobView({ state: "failed", attempts: 4, epoch: 4, held: 0 }),
      failures: [...crashes, last],
      run: runOf([80])
    });
    const banner = shown.find("[data-rnb=failure]");
    expect(banner.getAttribute("role")).toBe("alert");
    expect(banner.textContent).toContain("error in the cell");
    expect(banner.textContent).toContain("rank 1 raised it");
    expect(banner.textContent).toContain("Decision: stop.");
    expect(text(".rnb-Earlier")).toContain("3 earlier failures");
    expect(text(".rnb-Earlier")).toContain("3 times in a row");
    expect(shown.node.textContent).toContain("It goes on from step 80.");
    shown.button("Retry anyway").click();
    await until(() => shown.feed.acted.length === 1);
    expect(shown.feed.acted[0]).toMatchObject({ verb: "retry", anyway: true, epoch: 4 });
  });
});

describe("the timeline", () => {
  beforeEach(async () => {
    shown = stage({
      head: jobView({ state: "cancelled", held: 0 }),
      run: runOf([20, 40, 60, 120])
    });
    await there("[role=listbox]");
  });

  const list = () => shown.find("[role=listbox]");
  const active = () => document.getElementById(list().getAttribute("aria-activedescendant") ?? "");

  it("is a list that begins at the head", () => {
    expect(list().getAttribute("aria-label")).toBe("Checkpoints");
    expect(active()?.getAttribute("aria-label")).toBe("step 120, head");
    expect(active()?.getAttribute("aria-selected")).toBe("true");
    expect(shown.node.querySelectorAll("[role=option]")).toHaveLength(4);
  });

  it("is walked, jumped in by digits, and left for the buttons by keyboard alone", async () => {
    list().focus();
    press("Home");
    await until(() => active()?.getAttribute("aria-label") === "step 20");
    press("4");
    press("0");
    await until(() => active()?.getAttribute("aria-label") === "step 40");
    press("Enter");
    expect(document.activeElement).toBe(shown.button("Roll back"));
    shown.button("Roll back").click();
    await until(() => shown.feed.acted.length === 1);
    expect(shown.feed.acted[0]).toMatchObject({
      verb: "rollback",
      run: "digits",
      ref: "digits/00000040-e1",
      head: "digits/00000120-e1"
    });
    expect(shown.actions.confirm.mock.calls[0]?.[1]).toContain("from step 120 back to step 40");
    press("Escape");
    expect(document.activeElement).toBe(list());
  });

  it("stays where the user is when the head moves on", async () => {
    list().focus();
    press("ArrowLeft");
    await until(() => active()?.getAttribute("aria-label") === "step 60");
    shown.tell({ run: runOf([20, 40, 60, 120, 140]) });
    await until(() => shown.node.querySelectorAll("[role=option]").length === 5);
    expect(active()?.getAttribute("aria-label")).toBe("step 60");
  });

  it("inserts the code that loads, and asks again for a name that can't be", async () => {
    shown.button("Load").click();
    expect(shown.actions.insertCode.mock.calls[0]?.[0]).toContain('load("digits@120")');
    shown.actions.askName.mockResolvedValueOnce("not good").mockResolvedValueOnce("good");
    shown.button("Tag").click();
    await until(() => shown.feed.acted.length === 1);
    expect(shown.feed.acted[0]).toMatchObject({ verb: "tag", name: "good" });
    expect(shown.actions.askName.mock.calls[1]?.[1]).toContain("Use 1 to 64");
  });
});

describe("GPUs", () => {
  it("have a column where a rank has one", async () => {
    shown = stage({ ranks: [rankRow(0), rankRow(1)] });
    const texts = (selector: string) =>
      Array.from(shown.node.querySelectorAll(selector), found => found.textContent ?? "");
    const heads = () => texts("[role=columnheader]");
    await there("[role=grid]");
    expect(heads()).not.toContain("GPU");
    const told = Object.assign(rankRow(1), { [RANK.gpu]: 0.29, [RANK.gpu_memory]: 3 * 2 ** 30 });
    shown.tell({ ranks: [told] });
    await until(() => heads().includes("GPU"));
    expect(texts(".rnb-Ranks-body [role=row]")[1]).toContain("29 % 3");
    expect(shown.find("[role=grid]").getAttribute("aria-colcount")).toBe(String(heads().length));
  });
});

describe("1,000 ranks", () => {
  it("are a grid of which only what is seen is there, and open their output", async () => {
    shown = stage({ ranks: Array.from({ length: 1000 }, (_, i) => rankRow(i)), world: 1000 });
    await there("[role=grid]");
    const grid = shown.find("[role=grid]");
    expect(grid.getAttribute("aria-rowcount")).toBe("1001");
    expect(grid.querySelectorAll("[role=row]").length).toBeLessThan(40);
    grid.focus();
    press("End");
    await until(() => grid.querySelector("[aria-rowindex='1001']") !== null);
    press("Enter");
    await until(() => shown.find("[role=log]").getAttribute("aria-label") === "Output of rank 999");
    const step = [...grid.querySelectorAll("button")].find(b => b.textContent?.startsWith("Step"));
    step?.click();
    await until(() => step?.parentElement?.getAttribute("aria-sort") === "descending");
  });
});

describe("output", () => {
  it("is followed while the job runs, and searched", async () => {
    shown = stage({ ranks: [rankRow(0)] });
    await until(() => shown.feed.asked === 1);
    shown.feed.output = "first\nsecond needle\n";
    await until(() => text("[role=log]").includes("second needle"));
    const search = shown.find("[aria-label='Search the output']") as HTMLInputElement;
    search.value = "needle";
    search.dispatchEvent(new Event("input", { bubbles: true }));
    press("Enter", search);
    await until(() => shown.node.querySelector(".rnb-mod-match") !== null);
    expect(text(".rnb-mod-match")).toBe("second needle\n");
    expect(text("[role=search] [role=status]")).toBe("1 of 1");
  });

  it("isn't asked for while nobody sees it", async () => {
    jest.useFakeTimers();
    shown = stage({ ranks: [rankRow(0)] });
    await jest.advanceTimersByTimeAsync(5000);
    const asked = shown.feed.asked;
    expect(asked).toBeGreaterThan(3);
    shown.panel.hide();
    await jest.advanceTimersByTimeAsync(5000);
    expect(shown.feed.asked).toBe(asked);
    shown.panel.dispose();
    jest.useRealTimers();
  });
});

describe("hostile texts", () => {
  it("are shown as text wherever they come from", async () => {
    const error = {
      type: HOSTILE,
      message: HOSTILE,
      in_collective: false,
      damaged: "",
      errno: 0,
      lost_input: "",
      metric: "",
      frames: [{ filename: HOSTILE, lineno: 1, name: HOSTILE, line: HOSTILE }]
    };
    const run = runOf([20], { forks: { [HOSTILE]: "digits/00000020-e1" } });
    const point = checkpoint(20, { tags: [HOSTILE], metrics: { [HOSTILE]: 1 }, job: HOSTILE });
    shown = stage({
      head: jobView({
        state: "failed",
        reason: HOSTILE,
        label: HOSTILE,
        user: HOSTILE,
        group: HOSTILE,
        alerts: [HOSTILE],
        out: [HOSTILE],
        returned: [HOSTILE],
        reads: { [HOSTILE]: HOSTILE },
        inputs: [HOSTILE],
        after: [HOSTILE]
      }),
      failures: [
        failure({ cause: HOSTILE, message: HOSTILE, evidence: [HOSTILE], stacks: HOSTILE, error })
      ],
      notes: [HOSTILE],
      run: { ...run, checkpoints: [point] },
      ranks: [Object.assign(rankRow(0), { 1: HOSTILE, 2: HOSTILE })],
      points: { [HOSTILE]: [[1, 1]] }
    });
    shown.feed.output = `${HOSTILE}\n`;
    await there(".rnb-Section-notes");
    expect(shown.node.querySelectorAll("img, script, [onerror]")).toHaveLength(0);
    expect(shown.node.textContent).toContain("<img src=x onerror=alert(1)>");
    expect(shown.node.textContent).not.toMatch(/[\u202e\x1b]/);
    for (const element of shown.node.querySelectorAll("*")) {
      for (const { value } of element.attributes) {
        expect(value).not.toMatch(/[\u202e\x1b]/);
      }
    }
  });
});
