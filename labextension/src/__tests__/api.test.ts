import { Api, requestId } from "../api";
import type { Refusal } from "../tokens";
import { HOSTILE, trans } from "./builders";
import { FakeRequest, answer, settings } from "./fakes";

type Answer = () => Response;

const lost: Answer = () => {
  throw new TypeError("Failed to fetch");
};
const done: Answer = () => answer(200, { said: "Done.", job: "a#1", run: "a" });

/** An `Api` that gets these answers, the last one again and again; and what it has asked. */
function asking(answers: Answer[], cluster = ""): { api: Api; asked: FakeRequest[] } {
  const asked: FakeRequest[] = [];
  const fetch = async (request: FakeRequest): Promise<Response> => {
    asked.push(request);
    return (answers[Math.min(asked.length, answers.length) - 1] as Answer)();
  };
  return { api: new Api(settings(fetch), cluster, trans), asked };
}

const refused = async (promise: Promise<unknown>): Promise<Refusal> =>
  promise.then(
    () => Promise.reject(new Error("It went well.")),
    (reason: Refusal) => reason
  );

const ids = (asked: FakeRequest[]): Set<string> =>
  new Set(asked.map(request => (JSON.parse(request.body ?? "") as { request_id: string }).request_id));

beforeEach(() => {
  jest.useFakeTimers();
});

afterEach(() => {
  jest.useRealTimers();
  document.cookie = "_xsrf=; max-age=0";
});

test("a query says what is known, in whatever letters", async () => {
  const { api, asked } = asking([() => answer(200, { text: HOSTILE })], "tcp://a:1");
  const found = await api.get<{ text: string }>("search", { job: "a#1", text: "ü &?", epoch: undefined });
  expect(found.text).toBe(HOSTILE);
  expect(asked[0]?.url).toBe(
    "http://lab/user/ann/resilient-nb/search?job=a%231&text=%C3%BC%20%26%3F&cluster=tcp%3A%2F%2Fa%3A1"
  );
});

test("an action is posted with Jupyter's XSRF token", async () => {
  document.cookie = "_xsrf=secret";
  const { api, asked } = asking([done]);
  expect((await api.act({ verb: "cancel", job: "a#1" })).said).toBe("Done.");
  expect(asked[0]).toMatchObject({ method: "POST", url: "http://lab/user/ann/resilient-nb/actions" });
  expect(asked[0]?.headers.get("X-XSRFToken")).toBe("secret");
  expect(JSON.parse(asked[0]?.body ?? "")).toMatchObject({ verb: "cancel", job: "a#1" });
});

test("an action whose answer is lost is repeated with the same id", async () => {
  const { api, asked } = asking([lost, () => answer(502, "<html>"), () => answer(503, ""), done]);
  const promise = api.act({ verb: "cancel", job: "a#1" });
  await jest.advanceTimersByTimeAsync(250 + 500 + 1000);
  expect((await promise).job).toBe("a#1");
  expect(asked).toHaveLength(4);
  expect(ids(asked).size).toBe(1);
});

test("an answer that is cut off is lost, too", async () => {
  const half = (): Response =>
    ({ status: 200, text: () => Promise.reject(new TypeError("network error")) }) as unknown as Response;
  const { api, asked } = asking([half, done]);
  const promise = api.act({ verb: "cancel", job: "a#1" });
  await jest.advanceTimersByTimeAsync(250);
  await promise;
  expect(asked).toHaveLength(2);
});

test("an answer that doesn't come is not waited for without end", async () => {
  const asked: FakeRequest[] = [];
  const fetch = (request: FakeRequest): Promise<Response> => {
    asked.push(request);
    return new Promise((resolve, reject) => {
      request.signal?.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
      if (asked.length === 2) {
        resolve(done());
      }
    });
  };
  const promise = new Api(settings(fetch), "", trans).act({ verb: "cancel", job: "a#1" });
  await jest.advanceTimersByTimeAsync(10_000 + 250);
  expect((await promise).said).toBe("Done.");
  expect(ids(asked).size).toBe(1);
  expect(jest.getTimerCount()).toBe(0);
});

test("it gives up after 20 s, and says that nobody knows", async () => {
  const { api, asked } = asking([lost]);
  const promise = refused(api.act({ verb: "cancel", job: "a#1" }));
  await jest.advanceTimersByTimeAsync(25_000);
  const refusal = await promise;
  expect(refusal.code).toBe("no-answer");
  expect(refusal.message).toContain("look at the job");
  expect(asked.length).toBeGreaterThan(8);
  expect(asked.length).toBeLessThan(16);
});

test("what the extension says of the cluster counts when it gives up", async () => {
  const away = { code: "cluster-unreachable", message: "No cluster answers." };
  const { api } = asking([() => answer(503, away)]);
  const promise = refused(api.act({ verb: "cancel", job: "a#1" }));
  await jest.advanceTimersByTimeAsync(25_000);
  expect(await promise).toMatchObject(away);
});

test.each([
  [409, { code: "conflict", message: HOSTILE }, "conflict", HOSTILE],
  [400, { code: "invalid-request", message: "No." }, "invalid-request", "No."],
  [403, { message: "Forbidden", reason: null }, "not-allowed", "Reload the page"],
  [404, "<html>", "no-extension", "Install it there"],
  [500, "oops", "http-500", "Its log says more"],
  [200, "<html>a proxy's page", "http-200", "(200)"],
  [500, "null", "http-500", "(500)"]
])("an answer %p %p is a refusal, at once", async (status, body, code, text) => {
  const { api, asked } = asking([() => answer(status, body)]);
  const refusal = await refused(api.act({ verb: "cancel", job: "a#1" }));
  expect(refusal.code).toBe(code);
  expect(refusal.message).toContain(text);
  expect(asked).toHaveLength(1);
  expect((await refused(api.get("why", { job: "a#1" }))).code).toBe(code);
});

test("what is only read isn't repeated", async () => {
  const { api, asked } = asking([lost]);
  expect((await refused(api.get("why", { job: "a#1" }))).code).toBe("no-answer");
  expect(asked).toHaveLength(1);
});

test.each([true, false])("each click has an id of its own (randomUUID there: %p)", there => {
  const before = Object.getOwnPropertyDescriptor(crypto, "randomUUID");
  let count = 0;
  const made = there ? () => `uuid-${(count += 1)}` : undefined;
  Object.defineProperty(crypto, "randomUUID", { value: made, configurable: true });
  const several = new Set(Array.from({ length: 50 }, requestId));
  expect(several.size).toBe(50);
  expect([...several].every(id => id.length >= 6)).toBe(true);
  Object.defineProperty(crypto, "randomUUID", before ?? { value: undefined, configurable: true });
});
