import { Widget } from "@lumino/widgets";

import { MIME, jobFactory, payload } from "../mime";
import type { JobRenderer } from "../mime";
import type { JobView } from "../protocol";
import type { ISaved } from "../tokens";
import { HOSTILE, jobView } from "./builders";

interface IMade {
  readonly job: string;
  readonly saved: ISaved | null;
  readonly widget: Widget;
}

function renderer(): { made: IMade[]; shown: JobRenderer; draw(data: unknown): Promise<void> } {
  const made: IMade[] = [];
  const factory = jobFactory({
    panel: (job, saved) => {
      const widget = new Widget();
      made.push({ job, saved, widget });
      return widget;
    },
    broken: why => `broken: ${why}`
  });
  const shown = factory.createRenderer({} as never) as JobRenderer;
  const draw = (data: unknown) => shown.renderModel({ data: { [MIME]: data } } as never);
  return { made, shown, draw };
}

function bundle(job: string, view: JobView | null = null): unknown {
  return { version: 1, job, run: "digits", cluster: "c", view };
}

test("it is preferred to ipywidgets and HTML, and needs no trust", () => {
  const factory = jobFactory({ panel: () => new Widget(), broken: () => "" });
  expect(factory.mimeTypes).toEqual([MIME]);
  expect(factory.defaultRank).toBeLessThan(-10);
  expect(factory.safe).toBe(true);
});

test("updates of the same job keep its panel; another job has another one", async () => {
  const { made, shown, draw } = renderer();
  await draw(bundle("digits#1", jobView()));
  await draw(bundle("digits#1", jobView({ step: 200 })));
  expect(made.map(one => one.job)).toEqual(["digits#1"]);
  expect(made[0]!.saved?.view.step).toBe(92);
  await draw(bundle("digits#2"));
  expect(made.map(one => one.job)).toEqual(["digits#1", "digits#2"]);
  expect(made[0]!.widget.isDisposed).toBe(true);
  expect(shown.widgets).toEqual([made[1]!.widget]);
});

test("a payload that can't be read says so in text, and a whole one may follow", async () => {
  const { made, shown, draw } = renderer();
  await draw({ version: 1 });
  expect(shown.node.textContent).toBe("broken: no job");
  await draw({ version: 2, job: "digits#1" });
  expect(shown.node.textContent).toBe("broken: newer");
  await draw(bundle("digits#1"));
  expect(shown.widgets).toEqual([made[0]!.widget]);
});

test.each([null, "digits#1", [], { job: 3 }, { job: "" }, { version: "1", job: null }])(
  "%j names no job",
  data => {
    expect(payload(data)).toBe("no job");
  }
);

test("what turns the text around it is no job's id", () => {
  expect(payload(bundle("a#1\u202e"))).toBe("no job");
});

test("a view that is no view is left out", () => {
  const read = { job: "a#1", cluster: "c" };
  expect(payload(bundle("a#1", HOSTILE as never))).toEqual({ ...read, saved: null });
  expect(payload(bundle("a#1", {} as never))).toEqual({ ...read, saved: null });
});

test.each([
  [1e9, 1e9],
  [undefined, null], // as files were written before they said it
  ["today", null]
])("a view is of when the file says: %j", (at, read) => {
  const data = { ...(bundle("a#1", jobView()) as object), at };
  expect(payload(data)).toEqual({ job: "a#1", cluster: "c", saved: { view: jobView(), at: read } });
});
