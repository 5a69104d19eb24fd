import { Socket, delay } from "../socket";
import { FakeSocket } from "./fakes";

let heard: string[];
let socket: Socket;

beforeEach(() => {
  jest.useFakeTimers();
  FakeSocket.sockets = [];
  heard = [];
  const events = {
    received: (text: string): void => void heard.push(text),
    lost: (): void => void heard.push("lost")
  };
  socket = new Socket(() => new FakeSocket("ws://lab") as unknown as WebSocket, events, () => 0.5);
});

afterEach(() => {
  socket.dispose();
  expect(jest.getTimerCount()).toBe(0);
  jest.useRealTimers();
});

function look(visibility: "visible" | "hidden"): void {
  Object.defineProperty(document, "visibilityState", { value: visibility, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}

test("the next try comes after 0.25 s to 2 s, at random, later each time", () => {
  for (let tries = 0; tries < 40; tries += 1) {
    expect(delay(tries, 0)).toBe(250);
    expect(delay(tries, 1)).toBe(Math.min(2000, 500 * 2 ** tries));
  }
});

test("it comes back by itself, again and again", () => {
  FakeSocket.last.accept();
  FakeSocket.last.drop();
  expect(heard).toEqual(["lost"]);
  jest.advanceTimersByTime(374);
  expect(FakeSocket.sockets).toHaveLength(1);
  jest.advanceTimersByTime(1);
  expect(FakeSocket.sockets).toHaveLength(2);
  FakeSocket.last.drop();
  jest.advanceTimersByTime(2000);
  expect(FakeSocket.sockets).toHaveLength(3);
});

test("a message is what shows that all is well: the next loss is mended soon again", () => {
  for (let turn = 0; turn < 6; turn += 1) {
    FakeSocket.last.accept();
    FakeSocket.last.drop();
    jest.advanceTimersByTime(2000);
  }
  const before = FakeSocket.sockets.length;
  FakeSocket.last.accept();
  FakeSocket.last.say({});
  FakeSocket.last.drop();
  jest.advanceTimersByTime(375);
  expect(FakeSocket.sockets).toHaveLength(before + 1);
});

test("a connection that doesn't come about is given up", () => {
  jest.advanceTimersByTime(10_000);
  expect(heard).toEqual(["lost"]);
  expect(FakeSocket.sockets[0]?.readyState).toBe(3);
  jest.advanceTimersByTime(2000);
  FakeSocket.last.accept();
  jest.advanceTimersByTime(60_000);
  expect(FakeSocket.sockets).toHaveLength(2);
});

test("it tries at once when somebody looks at the page again, if it is down", () => {
  look("visible");
  expect(FakeSocket.sockets).toHaveLength(1);
  FakeSocket.last.drop();
  look("hidden");
  expect(FakeSocket.sockets).toHaveLength(1);
  look("visible");
  expect(FakeSocket.sockets).toHaveLength(2);
  jest.advanceTimersByTime(5000);
  expect(FakeSocket.sockets).toHaveLength(2);
});

test("it connects anew when the network is back, and hears nothing of the old one", () => {
  const old = FakeSocket.last;
  old.accept();
  const ears = old.onmessage;
  window.dispatchEvent(new Event("online"));
  expect(FakeSocket.sockets).toHaveLength(2);
  expect(old.readyState).toBe(3);
  expect(ears).not.toBeNull();
  expect(old.onmessage).toBeNull();
  expect(heard).toEqual([]);
});

test("what is sent while there is no connection is left out", () => {
  socket.send("early");
  FakeSocket.last.accept();
  socket.send("now");
  expect(FakeSocket.last.sent).toEqual(["now"]);
  FakeSocket.last.drop();
  socket.send("late");
});

test("after it was disposed nothing happens any more", () => {
  FakeSocket.last.accept();
  socket.dispose();
  expect(FakeSocket.last.readyState).toBe(3);
  window.dispatchEvent(new Event("online"));
  look("visible");
  jest.advanceTimersByTime(60_000);
  expect(FakeSocket.sockets).toHaveLength(1);
  expect(heard).toEqual([]);
});

test("an address that can't be opened is tried again, too", () => {
  const error = jest.spyOn(console, "error").mockImplementation(() => undefined);
  let lost = 0;
  const open = (): WebSocket => {
    throw new SyntaxError("no such address");
  };
  const broken = new Socket(open, { received: () => undefined, lost: () => (lost += 1) }, () => 0);
  jest.advanceTimersByTime(250);
  expect(lost).toBe(2);
  expect(error).toHaveBeenCalledTimes(2);
  broken.dispose();
  error.mockRestore();
});
