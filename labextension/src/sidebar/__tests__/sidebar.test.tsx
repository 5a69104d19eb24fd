import { render } from "preact";
import { act } from "preact/test-utils";

import { HOSTILE, boardRow, trans } from "../../__tests__/builders";
import type { AlertsReport, BoardRow, ClusterView } from "../../protocol";
import { DEFAULTS } from "../../settings";
import { ROW } from "../JobRow";
import { Sidebar } from "../Sidebar";
import type { ISidebarProps } from "../Sidebar";

const CLUSTER: ClusterView = {
  address: "tcp://a:1", cluster_id: "c", version: "1", store: "s", slots: 8, used: 6,
  max_workers: null, running: [], queued: [], metrics: "", alerts: [],
  hosts: [
    {
      id: "h1", slots: 8, used: 6, workers: ["w"], warm: true, unwell: HOSTILE, store_free: null,
      disk_free: null, round_trip: 0
    }
  ]
};

const ALERTS: AlertsReport = {
  firing: [
    {
      key: "k", rule: "r", severity: "critical", labels: { job: "digits#1" }, stage: "firing",
      since: 1, at: 1, text: HOSTILE, value: 1, fine_since: null, count: 1, last_at: 1
    }
  ],
  recent: [],
  channels: []
};

let node: HTMLElement;

beforeAll(() => {
  // jsdom has no layout; the list is as high as it begins.
  window.ResizeObserver = class {
    observe(): void {}
    unobserve(): void {}
    disconnect(): void {}
  };
});

beforeEach(() => {
  node = document.createElement("div");
  document.body.append(node);
});

afterEach(() => {
  render(null, node);
  node.remove();
});

function show(rows: readonly BoardRow[], given: Partial<ISidebarProps> = {}): ISidebarProps {
  const props: ISidebarProps = {
    board: {
      changed: undefined as never,
      rows,
      cluster: CLUSTER,
      leases: [{ host: "h1", job: "digits#1", slots: 6 }],
      shares: [],
      alerts: ALERTS,
      groupsOf: () => []
    },
    contact: { kind: "live" },
    lostAt: null,
    viewer: { name: "ann", groupsOf: () => [] },
    filter: { text: "", scope: "everyone", chips: new Set() },
    selected: null,
    sections: DEFAULTS.sidebar,
    now: 100,
    trans,
    onFilter: jest.fn(),
    onSelect: jest.fn(),
    onOpen: jest.fn(),
    onCell: jest.fn(),
    onCancel: jest.fn(),
    ...given
  };
  act(() => render(<Sidebar {...props} />, node));
  return props;
}

function options(): Element[] {
  return [...node.querySelectorAll("[role=option]")];
}

function press(key: string): void {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
  act(() => void node.querySelector("[role=listbox]")!.dispatchEvent(event));
}

test("parts have the roles and names by which people find them", () => {
  show([boardRow("digits#1"), boardRow("faces#1", { state: "failed" })]);
  expect(node.querySelector("[role=listbox]")!.getAttribute("aria-label")).toBe("Jobs");
  expect(options().map(o => o.getAttribute("aria-label"))).toEqual([
    "digits#1, running",
    "faces#1, failed"
  ]);
  const meter = node.querySelector("[role=meter][aria-label='Slots in use']")!;
  expect(meter.getAttribute("aria-valuetext")).toBe("6 of 8");
  expect(node.querySelectorAll("[role=radiogroup] [type=radio]")).toHaveLength(3);
  expect(node.querySelector("[role=list][aria-label=Alerts]")!.children).toHaveLength(1);
});

test("of ten thousand jobs only those that can be seen, and the selected one, are drawn", () => {
  const rows = Array.from({ length: 10_000 }, (_, i) => boardRow(`job#${i}`));
  show(rows, { selected: "job#9000" });
  expect(options().length).toBeLessThan(60);
  const chosen = node.querySelector("[aria-selected=true]") as HTMLElement;
  expect(chosen.getAttribute("aria-posinset")).toBe("9001");
  expect(chosen.style.transform).toBe(`translateY(${9000 * ROW}px)`);
  expect(node.querySelector("[role=listbox]")!.getAttribute("aria-activedescendant")).toBe(
    chosen.id
  );
});

test("keys select and open", () => {
  const rows = [boardRow("a#1"), boardRow("b#1")];
  const { onSelect, onOpen } = show(rows, { selected: "a#1" });
  press("ArrowDown");
  expect(onSelect).toHaveBeenLastCalledWith("b#1");
  press("Enter");
  expect(onOpen).toHaveBeenLastCalledWith("a#1");
});

test("a button keeps the focus when the job ends, and does nothing then", () => {
  const button = () => [...node.querySelectorAll("button")].find(b => b.textContent === "Cancel…")!;
  show([boardRow("a#1")], { selected: "a#1" });
  button().focus();
  const { onCancel } = show([boardRow("a#1", { state: "cancelled" })], { selected: "a#1" });
  expect(document.activeElement).toBe(button());
  expect(button().getAttribute("aria-disabled")).toBe("true");
  button().click();
  expect(onCancel).not.toHaveBeenCalled();
});

test("text from jobs and hosts stays text", () => {
  show([boardRow("a#1", { state: "failed", cause: HOSTILE, reason: HOSTILE, label: HOSTILE })], {
    contact: { kind: "down", why: HOSTILE, noCluster: false },
    lostAt: 50
  });
  expect(node.querySelector("img, script")).toBeNull();
  expect(node.textContent).toContain("<img src=x onerror=alert(1)>");
  expect(node.textContent).not.toMatch(/[\u202e\x1b]/);
});

test("an empty list says why, and shows the way out", () => {
  const { onFilter } = show([boardRow("a#1", { user: "bob" })], {
    filter: { text: "", scope: "mine", chips: new Set() }
  });
  expect(node.textContent).toContain("1 job, of other people.");
  act(() => (node.querySelector(".rnb-Nothing button") as HTMLElement).click());
  expect(onFilter).toHaveBeenCalledWith({ text: "", scope: "everyone", chips: new Set() });
});

test("without a cluster it says what to type", () => {
  const board = { ...show([]).board, cluster: null, alerts: null };
  show([], { board, contact: { kind: "down", why: "none", noCluster: true } });
  const codes = [...node.querySelectorAll("[role=status] code")].map(code => code.textContent);
  expect(codes).toEqual([
    "%load_ext resilient_nb",
    "%resilient up",
    "%resilient connect ADDRESS"
  ]);
});

test("without a server what is known stays, and since when it is so is said", () => {
  show([boardRow("a#1")], { contact: { kind: "offline", since: 50 }, lostAt: 50 });
  expect(node.querySelector("[role=status]")!.textContent).toContain("doesn't answer");
  expect(node.querySelector("[role=status]")!.textContent).toContain("What you see is how");
  expect(options()).toHaveLength(1);
});

test("only what is set is shown below the list", () => {
  show([], { sections: { alerts: false, cluster: false, shares: false } });
  expect(node.querySelector("[role=meter]")).toBeNull();
  expect(node.querySelector(".rnb-Alerts")).toBeNull();
});
