// A rank's output, as the panel asks for it and shows it.

import { press, stage, until } from "./stage";
import type { IStage } from "./stage";

import { jobView, rankRow } from "../../__tests__/builders";

jest.mock("uplot", () => class {});

let shown: IStage;
afterEach(() => {
  shown.panel.dispose();
  jest.useRealTimers();
});

const RANKS = { ranks: [rankRow(0), rankRow(1)] };

const text = () => shown.node.querySelector("[role=log]")?.textContent ?? "";

const choice = (name: string) => {
  const labels = [...shown.node.querySelectorAll("label")];
  const label = labels.find(each => each.textContent?.startsWith(name));
  return label?.querySelector("select") ?? null;
};

function choose(name: string, value: string): void {
  const select = choice(name);
  if (select === null) {
    throw new Error(`There is no choice of ${name}.`);
  }
  select.focus();
  select.value = value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}

it("shows what was written last, also if the job has ended while nobody looked", async () => {
  jest.useFakeTimers();
  shown = stage(RANKS);
  shown.feed.output = "first\n";
  await jest.advanceTimersByTimeAsync(2000);
  expect(text()).toContain("first");
  shown.panel.hide();
  await jest.advanceTimersByTimeAsync(2000);
  shown.feed.output = "first\nlast\n";
  shown.tell({ head: jobView({ state: "succeeded", held: 0 }) });
  shown.panel.show();
  await jest.advanceTimersByTimeAsync(2000);
  expect(text()).toContain("last");
});

it("is read once more when the job has ended, and then left alone", async () => {
  jest.useFakeTimers();
  shown = stage(RANKS);
  await jest.advanceTimersByTimeAsync(3000);
  shown.tell({ head: jobView({ state: "succeeded", held: 0 }) });
  await jest.advanceTimersByTimeAsync(3000);
  const { asked } = shown.feed;
  await jest.advanceTimersByTimeAsync(10_000);
  expect(shown.feed.asked).toBe(asked);
});

it("leaves no timer behind if it goes while an answer is on its way", async () => {
  jest.useFakeTimers();
  shown = stage(RANKS);
  await jest.advanceTimersByTimeAsync(500);
  let answer = () => {};
  const { feed } = shown;
  const log = feed.log.bind(feed);
  feed.log = async (...query) => {
    await new Promise<void>(resolve => (answer = resolve));
    return log(...query);
  };
  await jest.advanceTimersByTimeAsync(1500);
  shown.panel.dispose();
  answer();
  await jest.advanceTimersByTimeAsync(100);
  expect(jest.getTimerCount()).toBe(0);
});

it("keeps the focus on the choice of an attempt", async () => {
  shown = stage(RANKS);
  const { feed } = shown;
  const log = feed.log.bind(feed);
  feed.log = async (job, rank, offset, limit, epoch = 2) => {
    return { ...(await log(job, rank, offset, limit)), epoch, epochs: [1, 2] };
  };
  feed.output = "something\n";
  await until(() => choice("Attempt") !== null);
  const select = choice("Attempt");
  choose("Attempt", "1");
  const { asked } = feed;
  await until(() => feed.asked > asked && text().includes("something"));
  expect(choice("Attempt")).toBe(select);
  expect(document.activeElement).toBe(select);
  expect(select?.value).toBe("1");
});

it("drops what a search in another rank's output still brings", async () => {
  shown = stage(RANKS);
  await until(() => choice("Rank") !== null);
  let answer = () => {};
  shown.feed.search = async () => {
    await new Promise<void>(resolve => (answer = resolve));
    return { matches: [{ offset: 0, line: "needle" }], more: false, epoch: 1 };
  };
  const box = shown.find("[aria-label='Search the output']") as HTMLInputElement;
  box.value = "needle";
  box.dispatchEvent(new Event("input", { bubbles: true }));
  press("Enter", box);
  choose("Rank", "1");
  await until(() => shown.find("[role=log]").getAttribute("aria-label") === "Output of rank 1");
  answer();
  await new Promise(done => requestAnimationFrame(done));
  expect(shown.find("[role=search] [role=status]").textContent).toBe("");
});
