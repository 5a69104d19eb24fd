// Steering from menus: what is asked, what is done, and why not.

import { InputDialog, Notification, showDialog } from "@jupyterlab/apputils";

import { failure, jobView, runOf, trans } from "./builders";
import { FakeFeed } from "../panel/__tests__/stage";
import { Steering } from "../steering";
import { Refusal } from "../tokens";
import type { IShellActions } from "../tokens";

jest.mock("uplot", () => class {});
jest.mock("@jupyterlab/apputils", () => ({
  InputDialog: { getItem: jest.fn() },
  Notification: { success: jest.fn(), error: jest.fn() },
  Dialog: { okButton: jest.fn() },
  showDialog: jest.fn()
}));
jest.mock("@jupyterlab/docmanager", () => ({}));
jest.mock("@jupyterlab/notebook", () => ({}));

const getItem = InputDialog.getItem as jest.Mock;
const told = (kind: "success" | "error") => (Notification[kind] as jest.Mock).mock.calls;

const answered = (value: string) => ({ button: { accept: true }, value });

describe("steering", () => {
  const actions = {
    confirm: jest.fn<Promise<boolean>, [string, string, string]>(),
    askName: jest.fn<Promise<string | null>, [string, string, string]>()
  };
  let feed: FakeFeed;
  let steering: Steering;

  beforeEach(() => {
    jest.resetAllMocks();
    actions.confirm.mockResolvedValue(true);
    feed = new FakeFeed();
    const record = feed.record("digits#1");
    record.head = jobView({ state: "failed", held: 0 });
    record.run = runOf([20, 40, 60]);
    record.failures = [failure({ decision: "stop" })];
    steering = new Steering(feed, actions satisfies IShellActions, trans);
  });

  it("says what a rollback does, does it once it is agreed to, and tells the result", async () => {
    getItem.mockImplementation(async ({ items }) => {
      expect(items).toEqual(["1. digits@40", "2. digits@20"]);
      return answered("2. digits@20");
    });
    await steering.rollback("digits#1");
    expect(actions.confirm.mock.calls[0]?.[1]).toContain("from step 60 back to step 20");
    expect(feed.acted).toMatchObject([{ verb: "rollback", ref: "digits/00000020-e1" }]);
    expect(told("success")[0]?.[0]).toBe("It is done.");
    expect(feed.record("digits#1").unheld).toBe(true);
  });

  it("does nothing that isn't agreed to", async () => {
    actions.confirm.mockResolvedValue(false);
    await steering.retry("digits#1");
    getItem.mockResolvedValue({ button: { accept: false }, value: null });
    await steering.rollback("digits#1");
    actions.askName.mockResolvedValue(null);
    getItem.mockResolvedValue(answered("1. digits@60"));
    await steering.fork("digits#1");
    expect(feed.acted).toEqual([]);
    expect(told("error")).toEqual([]);
  });

  it("retries, forks under a name that is free, and tags, as the panel's buttons do", async () => {
    await steering.retry("digits#1");
    getItem.mockResolvedValue(answered("2. digits@40"));
    actions.askName.mockImplementation(async (_, __, suggestion) => suggestion || "best");
    await steering.fork("digits#1");
    await steering.tag("digits#1");
    expect(feed.acted).toMatchObject([
      { verb: "retry", job: "digits#1", anyway: true },
      { verb: "fork", ref: "digits/00000040-e1", name: "digits-2" },
      { verb: "tag", ref: "digits/00000040-e1", name: "best" }
    ]);
  });

  it("refuses the name of a run that is known for a fork, but not for a tag", async () => {
    feed.record("digits#1").run = runOf([20], { forks: { branch: "digits/00000020-e1" } });
    getItem.mockResolvedValue(answered("1. digits@20"));
    for (const name of ["other", "branch", "digits", "fresh", "other"]) {
      actions.askName.mockResolvedValueOnce(name);
    }
    await steering.fork("digits#1");
    await steering.tag("digits#1");
    const labels = actions.askName.mock.calls.map(([, label]) => label);
    expect(labels.slice(1, 4)).toEqual(
      ["other", "branch", "digits"].map(name =>
        expect.stringContaining(`Run ${name} exists already`)
      )
    );
    expect(feed.acted).toMatchObject([
      { verb: "fork", name: "fresh" },
      { verb: "tag", name: "other" }
    ]);
  });

  it("tells a long refusal whole: a notification would cut it off", async () => {
    const why = "It can't be done. ".repeat(10);
    feed.answer = () => Promise.reject(new Refusal("refused", why));
    await steering.retry("digits#1");
    expect(told("error")).toEqual([]);
    expect((showDialog as jest.Mock).mock.calls[0]?.[0]).toMatchObject({ body: why });
  });

  it("says at once that nothing can be done while nobody would hear it", async () => {
    feed.contact = { kind: "offline", since: 1 };
    feed.record("digits#1").stale = true;
    await steering.cancel("digits#1");
    expect(told("error")[0]?.[0]).toContain("isn't live");
    expect(feed.acted).toEqual([]);
  });
});
