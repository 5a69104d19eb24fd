// What stays while a panel is drawn again: the focus, and nothing that is out of date.

import { press, stage, until } from "./stage";
import type { IStage } from "./stage";

import { failure, jobView, rankRow, runOf } from "../../__tests__/builders";
import type { DiffReport } from "../../protocol";

const built: { series: { points?: { show: () => boolean } }[] }[] = [];

jest.mock(
  "uplot",
  () =>
    class {
      width = 300;
      constructor(options: (typeof built)[number]) {
        built.push(options);
      }
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

const there = (selector: string) => until(() => shown.node.querySelector(selector) !== null);

const REPORT = {
  a: { id: "digits/00000020-e1", ref: "digits@20", at: 1 },
  b: { id: "digits/00000040-e1", ref: "digits@40", at: 2 },
  equal: true, notes: [], metrics: [], parts: [], tensors: [], state: [], hidden: 0, config: [],
  data: [], versions: [], numerics: [], environment: [], code: { diff: [] }
} as unknown as DiffReport;

describe("the focus", () => {
  it("goes back to the timeline when a comparison comes, and when it is closed", async () => {
    shown = stage({ run: runOf([20, 40]) });
    shown.feed.diff = (async () => REPORT) as never;
    await there("[role=listbox]");
    const list = shown.find("[role=listbox]");
    shown.button("Compare").click();
    await until(() => document.activeElement === list);
    press("Home");
    const first = () => list.querySelector("[aria-selected=true]")?.getAttribute("data-column");
    await until(() => first() === "0");
    press("Enter");
    const compare = shown.button("Compare with step 20");
    expect(document.activeElement).toBe(compare);
    compare.click();
    await there(".rnb-Diff");
    await until(() => document.activeElement === list);
    const close = shown.button("Close");
    close.focus();
    close.click();
    await until(() => shown.node.querySelector(".rnb-Diff") === null);
    expect(document.activeElement).toBe(list);
  });

  it("goes to the choice of another job when one is no more compared with", async () => {
    shown = stage({ points: { loss: [[1, 2]] } });
    await there(".rnb-Plots select");
    const select = shown.find(".rnb-Plots select") as HTMLSelectElement;
    select.value = "other#1";
    select.dispatchEvent(new Event("change", { bubbles: true }));
    await there(".rnb-Legend-remove");
    const remove = shown.find(".rnb-Legend-remove");
    remove.focus();
    remove.click();
    await until(() => shown.node.querySelector(".rnb-Legend-remove") === null);
    expect(document.activeElement).toBe(select);
    expect(shown.feed.record("other#1").unheld).toBe(true);
  });

  it("stays on the button that tells more of why a job waits", async () => {
    shown = stage({ head: jobView({ state: "queued", step: 0, attempts: 0, reason: "Full." }) });
    const more = shown.button("More");
    more.focus();
    more.click();
    await until(() => more.textContent === "Less");
    expect(document.activeElement).toBe(more);
    expect(more.getAttribute("aria-expanded")).toBe("true");
  });
});

it("keeps what was chosen in a part that is folded meanwhile", async () => {
  shown = stage({
    points: { loss: [[1, 2]], rate: [[1, 3]] },
    ranks: [rankRow(0), rankRow(1)]
  });
  await there(".rnb-Plots select");
  const other = shown.find(".rnb-Plots select") as HTMLSelectElement;
  other.value = "other#1";
  other.dispatchEvent(new Event("change", { bubbles: true }));
  shown.find(".rnb-Plots [role=group] input").click();
  await there(".rnb-Legend-remove");
  await there("[role=grid]");
  shown.find("[role=columnheader].rnb-Ranks-step button").click();
  const sorted = () =>
    shown.find("[role=columnheader].rnb-Ranks-step").getAttribute("aria-sort");
  await until(() => sorted() === "descending");
  for (const name of ["plots", "ranks"]) {
    const part = shown.find(`.rnb-Section-${name}`) as HTMLDetailsElement;
    const inside = name === "plots" ? ".rnb-Plots" : "[role=grid]";
    part.open = false;
    part.dispatchEvent(new Event("toggle"));
    await until(() => part.querySelector(inside) === null);
    expect(shown.feed.record("other#1").unheld).toBe(false);
    part.open = true;
    part.dispatchEvent(new Event("toggle"));
    await there(inside);
  }
  shown.find(".rnb-Legend-remove");
  const [first] = shown.node.querySelectorAll<HTMLInputElement>(".rnb-Plots [role=group] input");
  expect(first.checked).toBe(false);
  expect(sorted()).toBe("descending");
  shown.panel.dispose();
  expect(shown.feed.record("other#1").unheld).toBe(true);
});

it("asks which two to compare, also where the timeline is folded or not there yet", async () => {
  shown = stage();
  shown.panel.compare();
  shown.tell({ run: runOf([20, 40]) });
  await there(".rnb-Chosen [aria-label=Compare]");
  expect(document.activeElement).toBe(shown.find("[role=listbox]"));
  shown.button("Don't compare").click();
  const part = shown.find(".rnb-Section-checkpoints") as HTMLDetailsElement;
  part.open = false;
  part.dispatchEvent(new Event("toggle"));
  await until(() => part.querySelector(".rnb-Checkpoints") === null);
  shown.panel.compare();
  await there(".rnb-Chosen [aria-label=Compare]");
});

it("says it where there is nothing to compare with", async () => {
  shown = stage({ run: runOf([20]) });
  await there("[role=listbox]");
  shown.panel.compare();
  await until(() => shown.find("[data-rnb=said]").textContent?.includes("no two") === true);
});

it("says so if a notebook's file has what can't be drawn, until there is news", async () => {
  const complaint = jest.spyOn(console, "error").mockImplementation(() => undefined);
  shown = stage({ failures: [{ ...failure(), evidence: null as never }] });
  await until(() => shown.node.querySelector("[role=alert]") !== null);
  expect(shown.node.textContent).toContain("can't be shown");
  expect(complaint).toHaveBeenCalled();
  shown.tell({ head: jobView(), failures: [] });
  await there("[data-rnb=state]");
  complaint.mockRestore();
});

it("forgets what would have started a job when it runs", async () => {
  const queued = jobView({ state: "queued", step: 0, attempts: 0, reason: "Full." });
  shown = stage({ head: queued });
  shown.button("More").click();
  await until(() => shown.node.textContent?.includes("Wait.") === true);
  shown.tell({ head: jobView() });
  await until(() => shown.find("[data-rnb=state]").textContent === "running");
  shown.tell({ head: queued });
  await until(() => shown.find("[data-rnb=state]").textContent === "queued");
  expect(shown.node.textContent).not.toContain("Wait.");
});

it("opens a new failure, though the one before was folded by hand", async () => {
  shown = stage({ failures: [failure({ epoch: 1, at: 110 })] });
  const first = shown.find("[data-rnb=failure] details") as HTMLDetailsElement;
  expect(first.open).toBe(true);
  first.open = false;
  const second = failure({ epoch: 2, at: 125, cause: "out of memory" });
  shown.tell({ failures: [failure({ epoch: 1, at: 110 }), second] });
  await until(() => shown.find("[data-rnb=failure]").textContent?.includes("memory") === true);
  expect((shown.find("[data-rnb=failure] details") as HTMLDetailsElement).open).toBe(true);
});

it("marks the points of a curve only as long as they are few", async () => {
  built.length = 0;
  shown = stage({ points: { loss: [[1, 2]] } });
  await until(() => built.length === 1);
  const show = built[0]?.series[1]?.points?.show;
  expect(show?.()).toBe(true);
  shown.tell({
    points: {
      loss: [
        [2, 2],
        [3, 1],
        [4, 1]
      ]
    }
  });
  await until(() => shown.panel.model.series.get("loss")?.steps.length === 4);
  expect(show?.()).toBe(false);
});

it("draws nothing before it has been seen", async () => {
  const observers: IntersectionObserverCallback[] = [];
  const entry = (isIntersecting: boolean) => [{ isIntersecting } as IntersectionObserverEntry];
  window.IntersectionObserver = class {
    constructor(callback: IntersectionObserverCallback) {
      observers.push(callback);
    }
    observe() {}
    disconnect() {}
  } as unknown as typeof IntersectionObserver;
  try {
    jest.useFakeTimers();
    shown = stage({ ranks: [rankRow(0)] });
    observers[0]?.(entry(false), undefined as never);
    shown.tell({ head: jobView({ step: 99 }) });
    await jest.advanceTimersByTimeAsync(5000);
    expect(shown.find("[data-rnb=steps]").textContent).toBe("step 92 of 500");
    observers[0]?.(entry(true), undefined as never);
    await jest.advanceTimersByTimeAsync(500);
    expect(shown.find("[data-rnb=steps]").textContent).toBe("step 99 of 500");
  } finally {
    jest.useRealTimers();
    Reflect.deleteProperty(window, "IntersectionObserver");
  }
});
