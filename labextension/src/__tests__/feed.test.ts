import { Feed } from "../feed";
import { PROTOCOL } from "../protocol";
import type { JobDelta } from "../protocol";
import type { Contact } from "../tokens";
import { board, boardRow, delta, jobView, news, rankRow, trans } from "./builders";
import { FakeSocket, settings } from "./fakes";

let feed: Feed;
let contacts: string[];

beforeEach(() => {
  jest.useFakeTimers({ doNotFake: ["queueMicrotask"] });
  FakeSocket.sockets = [];
  feed = new Feed(settings(), "", trans);
  contacts = [];
  feed.contactChanged.connect((_: unknown, contact: Contact) => {
    contacts.push(contact.kind);
  });
});

afterEach(() => {
  feed.dispose();
  expect(jest.getTimerCount()).toBe(0);
  jest.useRealTimers();
});

const wishes = (): string[][] =>
  FakeSocket.last.sent.map(text => (JSON.parse(text) as { jobs: string[] }).jobs);

const full = (job: string): JobDelta =>
  delta({ job, full: true, head: jobView({ step: 50 }) });

/** Let what was put off to the end of the current turn happen. */
const turn = async (): Promise<void> => {
  await Promise.resolve();
};

test("the address has the cluster and, where the browser sends no cookie, the token", () => {
  expect(FakeSocket.last.url).toBe("ws://lab/user/ann/resilient-nb/feed");
  new Feed(
    settings(undefined, { token: "a&b", appendToken: true }), "tls://host:8786", trans
  ).dispose();
  expect(FakeSocket.last.url).toBe(
    "ws://lab/user/ann/resilient-nb/feed?cluster=tls%3A%2F%2Fhost%3A8786&token=a%26b"
  );
  new Feed(settings(undefined, { token: "t" }), "", trans).dispose();
  expect(FakeSocket.last.url).not.toContain("token");
});

test("nothing is live from the moment that another cluster is to be followed", () => {
  FakeSocket.last.greet();
  FakeSocket.last.say(news());
  feed.connect("tcp://other:8786");
  expect(feed.contact.kind).toBe("connecting");
});

test("contact: connecting, live, down, offline, and live again", () => {
  expect(feed.contact.kind).toBe("connecting");
  FakeSocket.last.greet();
  expect(feed.user).toBe("ann");
  FakeSocket.last.say(news());
  FakeSocket.last.say(news());
  expect(feed.contact.kind).toBe("live");
  FakeSocket.last.say({ type: "down", why: "It restarts.", no_cluster: false });
  FakeSocket.last.say({ type: "down", why: "It restarts.", no_cluster: false });
  expect(feed.contact).toEqual({ kind: "down", why: "It restarts.", noCluster: false });
  FakeSocket.last.say(news());
  FakeSocket.last.drop();
  const { contact } = feed;
  expect(contact.kind).toBe("offline");
  for (let tries = 0; tries < 3; tries += 1) {
    jest.advanceTimersByTime(2000);
    FakeSocket.last.drop();
  }
  expect(feed.contact).toBe(contact); // since the first loss, told once
  jest.advanceTimersByTime(2000);
  FakeSocket.last.greet();
  FakeSocket.last.say(news());
  expect(contacts).toEqual(["live", "down", "live", "offline", "connecting", "live"]);
});

test("that there is no cluster is told apart from one that doesn't answer", () => {
  FakeSocket.last.greet();
  FakeSocket.last.say({ type: "down", why: "There is none.", no_cluster: true });
  expect(feed.contact).toMatchObject({ kind: "down", noCluster: true });
});

test.each([
  [PROTOCOL + 1, "reload the page"],
  [PROTOCOL - 1, "restart the server"]
])("with protocol %p the way out is said, and nothing is taken", (protocol, way) => {
  feed.job("digits#1");
  FakeSocket.last.greet({ protocol });
  FakeSocket.last.say(news({ board: board({ rows: [boardRow("a#1")] }) }));
  expect(feed.contact.kind).toBe("down");
  expect((feed.contact as { why: string }).why).toContain(way);
  expect(feed.board.rows).toEqual([]);
  expect(FakeSocket.last.sent).toEqual([]);
  FakeSocket.last.drop();
  jest.advanceTimersByTime(2000);
  FakeSocket.last.greet();
  FakeSocket.last.say(news());
  expect(feed.contact.kind).toBe("live");
});

test("who the user is may be told again, without a word about the contact", () => {
  FakeSocket.last.greet();
  FakeSocket.last.say(news());
  FakeSocket.last.say({ type: "hello", protocol: PROTOCOL, version: "1.0", user: "root" });
  expect(feed.user).toBe("root");
  expect(contacts).toEqual(["live"]);
});

test("what is no message of ours is passed over", () => {
  const error = jest.spyOn(console, "error").mockImplementation(() => undefined);
  FakeSocket.last.greet();
  FakeSocket.last.onmessage?.({ data: "{" });
  FakeSocket.last.say({ type: "of a later version" });
  expect(error).toHaveBeenCalledTimes(1);
  expect(contacts).toEqual([]);
  error.mockRestore();
});

test("the clock is the scheduler's", () => {
  jest.setSystemTime(1_000_000);
  expect(feed.now()).toBe(1000);
  FakeSocket.last.greet();
  FakeSocket.last.say(news({ at: 1300 }));
  expect(feed.now()).toBe(1300);
  FakeSocket.last.say(news({ at: 1299.5 })); // was on its way for longer
  expect(feed.now()).toBe(1300);
  FakeSocket.last.say(news({ at: 1280 })); // was set back
  expect(feed.now()).toBe(1280);
});

test("jobs are wished for together, and again on a new connection", async () => {
  feed.job("a#1");
  feed.job("b#1");
  FakeSocket.last.greet();
  await turn();
  expect(new Set(wishes().map(String))).toEqual(new Set(["a#1,b#1"]));
  const before = wishes().length;
  feed.job("c#1");
  feed.job("d#1");
  feed.job("a#1");
  await turn();
  expect(wishes().slice(before)).toEqual([["a#1", "b#1", "c#1", "d#1"]]);
  FakeSocket.last.drop();
  jest.advanceTimersByTime(2000);
  FakeSocket.last.greet();
  expect(wishes()).toEqual([["a#1", "b#1", "c#1", "d#1"]]);
});

test("no more jobs are wished for than the server takes", async () => {
  for (let number = 0; number <= 1000; number += 1) {
    feed.job(`a#${number}`);
  }
  FakeSocket.last.greet();
  await turn();
  const [wish] = wishes().slice(-1);
  expect(wish).toHaveLength(1000);
  expect(wish).toContain("a#1000");
});

test("a job is followed until the last holder has let go, and a little longer", async () => {
  FakeSocket.last.greet();
  const [first, second] = [feed.job("a#1"), feed.job("a#1")];
  await turn();
  FakeSocket.last.say(news({ jobs: [delta({ job: "a#1", full: true, head: jobView({ step: 7 }) })] }));
  expect(second.head).toBe(first.head);
  await turn();
  const before = wishes().length;
  first.dispose();
  jest.advanceTimersByTime(20_000);
  second.dispose();
  jest.advanceTimersByTime(4900);
  const third = feed.job("a#1");
  expect(third.head?.step).toBe(7);
  jest.advanceTimersByTime(20_000);
  await turn();
  expect(wishes()).toHaveLength(before);
  third.dispose();
  jest.advanceTimersByTime(5000);
  await turn();
  expect(wishes().slice(before)).toEqual([[]]);
  expect(feed.job("a#1").head).toBeNull();
});

test("each model is told once for each message; a job that nobody holds is passed over", () => {
  FakeSocket.last.greet();
  const model = feed.job("a#1");
  let [jobs, boards] = [0, 0];
  model.changed.connect(() => (jobs += 1));
  feed.board.changed.connect(() => (boards += 1));
  const pieces = [
    delta({ job: "a#1", full: true, head: jobView() }),
    delta({ job: "a#1", ranks: [rankRow(0)] }),
    delta({ job: "nobody#1", head: jobView() })
  ];
  FakeSocket.last.say(news({ board: board({ rows: [boardRow("a#1")] }), jobs: pieces }));
  expect([jobs, boards]).toEqual([1, 1]);
  FakeSocket.last.say(news());
  expect([jobs, boards]).toEqual([1, 1]);
  FakeSocket.last.say(news({ unknown: ["a#1"] }));
  FakeSocket.last.say(news({ unknown: ["a#1"] }));
  expect(model.unknown).toBe(true);
  expect([jobs, boards]).toEqual([2, 1]);
});

test("everything is forgotten when the cluster is another one, but not when it is only back", async () => {
  FakeSocket.last.greet();
  const saved = { view: jobView({ step: 3 }), at: 99 };
  const [plain, withFile] = [feed.job("a#1"), feed.job("b#1", saved)];
  FakeSocket.last.say(
    news({ board: board({ full: true, rows: [boardRow("a#1")] }), jobs: [full("a#1"), full("b#1")] })
  );
  expect(feed.clusterId).toBe("c1");
  FakeSocket.last.drop();
  jest.advanceTimersByTime(2000);
  FakeSocket.last.greet();
  FakeSocket.last.say(news());
  expect(plain.head?.step).toBe(50);
  FakeSocket.last.say(news({ cluster_id: "c2", unknown: ["a#1"] }));
  expect(feed.clusterId).toBe("c2");
  expect(feed.board.rows).toEqual([]);
  expect(plain.head).toBeNull();
  expect(plain.unknown).toBe(true);
  expect(withFile.head?.step).toBe(3);
  expect(withFile).toMatchObject({ stale: true, savedAt: 99 });
  await turn();
});

test("a job of another cluster isn't mistaken for the one of the same name here", async () => {
  const saved = { view: jobView({ step: 3 }), at: 99 };
  const foreign = feed.job("a#1", saved, "c2");
  const own = feed.job("a#1", saved, "c1");
  FakeSocket.last.greet();
  FakeSocket.last.say(news({ jobs: [full("a#1")] }));
  await turn();
  expect(own.head?.step).toBe(50);
  expect(foreign).toMatchObject({ unknown: true, stale: true, head: { step: 3 } });
  expect(feed.job("a#1").head).toBe(own.head);
  expect(feed.job("b#1", saved, "c2").unknown).toBe(true);
  await turn();
  expect(wishes().slice(-1)).toEqual([["a#1"]]);

  FakeSocket.last.say(news({ cluster_id: "c2" }));
  await turn();
  expect(wishes().slice(-1)).toEqual([["a#1", "b#1"]]);
  FakeSocket.last.say(news({ cluster_id: "c2", jobs: [full("a#1")] }));
  expect(foreign).toMatchObject({ unknown: false, stale: false, head: { step: 50 } });
  expect(own).toMatchObject({ unknown: true, stale: true, head: { step: 3 } });
});

test("another cluster is connected to at once; what was known of the first one goes", async () => {
  const model = feed.job("digits#1");
  FakeSocket.last.greet();
  FakeSocket.last.say(news({ board: board({ rows: [boardRow("digits#1")] }) }));
  const before = FakeSocket.last;
  feed.connect("tcp://other:8786");
  expect(before.readyState).toBe(3);
  expect(FakeSocket.last.url).toContain("?cluster=tcp%3A%2F%2Fother%3A8786");
  FakeSocket.last.greet();
  expect(wishes()).toEqual([["digits#1"]]);
  FakeSocket.last.say(news({ cluster_id: "other", board: board({ full: true }) }));
  expect(feed.board.rows).toEqual([]);
  expect(contacts).toEqual(["live", "connecting", "live"]);
  model.dispose();
  jest.advanceTimersByTime(5000);
  await turn();
});
