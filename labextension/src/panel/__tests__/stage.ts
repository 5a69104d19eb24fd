// A panel on a page, fed by the model itself; what it asks of the server is answered by the test.

import "./jsdom";

import { Signal } from "@lumino/signaling";
import { Widget } from "@lumino/widgets";

import { boardRow, delta, jobView, trans } from "../../__tests__/builders";
import { JobRecord } from "../../job";
import type { Action, Done, JobDelta, LogMatches, LogText } from "../../protocol";
import type { Contact, IFeed, IJobModel, IShellActions } from "../../tokens";
import { JobPanel } from "../index";
import type { ISections } from "../context";

export class FakeFeed implements IFeed {
  contact: Contact = { kind: "live" };
  readonly contactChanged: Signal<IFeed, Contact> = new Signal<IFeed, Contact>(this);
  readonly user = "ann";
  readonly clusterId = "c1";
  readonly board: IFeed["board"];
  readonly records = new Map<string, JobRecord>();
  /** What was done, and what comes of it. */
  readonly acted: Omit<Action, "request_id">[] = [];
  answer: () => Promise<Done> = async () => ({ said: "It is done.", job: "", run: "" });
  output = "";
  asked = 0;

  constructor() {
    const board = {
      rows: [boardRow("other#1")],
      cluster: null,
      leases: [],
      shares: [],
      alerts: null
    };
    const changed = new Signal<IFeed["board"], void>(board as unknown as IFeed["board"]);
    this.board = { ...board, groupsOf: () => [], changed };
  }

  now(): number {
    return 130;
  }

  record(id: string): JobRecord {
    const record = this.records.get(id) ?? new JobRecord(id);
    this.records.set(id, record);
    return record;
  }

  job(id: string): IJobModel {
    return this.record(id).hold(() => undefined);
  }

  act(action: Omit<Action, "request_id">): Promise<Done> {
    this.acted.push(action);
    return this.answer();
  }

  async log(_: string, __: number, offset: number, limit: number): Promise<LogText> {
    this.asked += 1;
    const bytes = new TextEncoder().encode(this.output);
    const begin = offset < 0 ? Math.max(0, bytes.length + offset) : offset;
    const end = Math.min(bytes.length, begin + limit);
    const text = new TextDecoder().decode(bytes.slice(begin, end));
    return { text, offset: begin, next: end, size: bytes.length, epoch: 1, epochs: [1] };
  }

  async search(_: string, __: number, text: string): Promise<LogMatches> {
    const lines = this.output.split("\n");
    const at = (i: number) =>
      new TextEncoder().encode(lines.slice(0, i).join("\n")).length + (i ? 1 : 0);
    const found = lines.flatMap((line, i) =>
      line.includes(text) ? [{ offset: at(i), line }] : []
    );
    return { matches: found, more: false, epoch: 1 };
  }

  diff(): Promise<never> {
    return Promise.reject(new Error("not asked for"));
  }

  async why(job: string) {
    return {
      job,
      state: "queued" as const,
      rule: "",
      reason: "",
      starts_at: null,
      starts_guess: "",
      remedies: ["Wait."]
    };
  }
}

export interface IStage {
  readonly feed: FakeFeed;
  readonly panel: JobPanel;
  readonly node: HTMLElement;
  readonly actions: {
    readonly [K in keyof IShellActions]-?: jest.Mock<
      ReturnType<NonNullable<IShellActions[K]>>,
      Parameters<NonNullable<IShellActions[K]>>
    >;
  };
  /** Tell what is new of the job. */
  tell(given: Partial<JobDelta>): void;
  find(selector: string): HTMLElement;
  button(name: string): HTMLButtonElement;
}

/** Put a panel on the page. What is given is known of the job before, or what a feed has of it. */
export function stage(
  given: Partial<JobDelta> = {},
  sections: Partial<ISections> = {},
  feed = new FakeFeed()
): IStage {
  const record = feed.record("digits#1");
  if (!record.stale) {
    record.apply(delta({ full: true, head: jobView(), ...given }));
  }
  const actions = {
    confirm: jest.fn<Promise<boolean>, [string, string, string]>(async () => true),
    askName: jest.fn<Promise<string | null>, [string, string, string]>(async () => null),
    openJob: jest.fn<void, [string]>(),
    goToCell: jest.fn<void, [string, string]>(),
    insertCode: jest.fn<void, [string]>()
  };
  const options = {
    feed,
    id: "digits#1",
    saved: null,
    actions,
    trans,
    compact: false,
    refresh: 100
  };
  const panel = new JobPanel({ ...options, sections });
  Widget.attach(panel, document.body);
  const node = panel.node;
  const find = (selector: string) => {
    const found = node.querySelector<HTMLElement>(selector);
    if (found === null) {
      throw new Error(`There is no ${selector} in ${node.innerHTML}`);
    }
    return found;
  };
  return {
    feed,
    panel,
    node,
    actions,
    find,
    button: name => {
      const all = [...node.querySelectorAll("button")];
      const found = all.find(button => button.textContent === name);
      if (found === undefined) {
        throw new Error(
          `There is no button ${name} among ${all.map(b => b.textContent).join(", ")}`
        );
      }
      return found;
    },
    tell: more => {
      record.apply(delta(more));
      record.flush();
    }
  };
}

/** Wait until something is so. */
export async function until(check: () => boolean, within = 3000): Promise<void> {
  const end = Date.now() + within;
  while (!check()) {
    if (Date.now() > end) {
      throw new Error(`It didn't come to pass: ${check}`);
    }
    await new Promise(done => requestAnimationFrame(done));
  }
}

/** Press a key where the focus is, or at an element. */
export function press(key: string, at: Element | null = document.activeElement): void {
  at?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
}
