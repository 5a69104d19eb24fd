// A browser's network, as far as the model uses it.

import type { ServerConnection } from "@jupyterlab/services";

import { PROTOCOL } from "../protocol";

/** A WebSocket whose other end is the test. All that were opened are in `sockets`. */
export class FakeSocket {
  static sockets: FakeSocket[] = [];

  static get last(): FakeSocket {
    return FakeSocket.sockets[FakeSocket.sockets.length - 1] as FakeSocket;
  }

  readyState = 0;
  readonly sent: string[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;

  constructor(readonly url: string) {
    FakeSocket.sockets.push(this);
  }

  send(text: string): void {
    if (this.readyState !== 1) {
      throw new Error("InvalidStateError");
    }
    this.sent.push(text);
  }

  close(): void {
    this.readyState = 3;
  }

  // --- the other end ---

  accept(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  say(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  /** Accept and greet, as the server does. */
  greet(given: object = {}): void {
    this.accept();
    this.say({ type: "hello", protocol: PROTOCOL, version: "1.0", user: "ann", ...given });
  }

  drop(): void {
    this.readyState = 3;
    this.onclose?.();
  }
}

/** What jsdom lacks of `fetch`: `makeRequest` makes one of these, and the test's `fetch` reads it. */
export class FakeRequest {
  readonly headers = new Map<string, string>() as Map<string, string> & {
    append(name: string, value: string): void;
  };
  readonly method: string;
  readonly body: string | undefined;
  readonly signal: AbortSignal | undefined;

  constructor(
    readonly url: string,
    init: { method?: string; body?: string; signal?: AbortSignal }
  ) {
    this.method = init.method ?? "GET";
    this.body = init.body;
    this.signal = init.signal;
    this.headers.append = (name, value) => this.headers.set(name, value);
  }
}

/** An answer as `fetch` gives it. */
export function answer(status: number, body: unknown): Response {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return { status, ok: status < 300, text: async () => text } as Response;
}

type Fetch = (request: FakeRequest) => Promise<Response>;

/** Settings of a server that is asked by `fetch` and `FakeSocket`. */
export function settings(
  fetch: Fetch = async () => answer(404, ""),
  given: Partial<ServerConnection.ISettings> = {}
): ServerConnection.ISettings {
  const own = {
    baseUrl: "http://lab/user/ann/",
    wsUrl: "ws://lab/user/ann/",
    token: "",
    appendToken: false,
    init: {},
    fetch,
    Request: FakeRequest,
    WebSocket: FakeSocket
  };
  return { ...(own as unknown as ServerConnection.ISettings), ...given };
}
