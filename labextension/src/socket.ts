// A WebSocket that comes back by itself.

/** Milliseconds before it is tried again, at least and at most. */
const SOONEST = 250;
const LATEST = 2000;
/** Milliseconds after which a connection that doesn't come about is given up. */
const PATIENCE = 10_000;

/** What is told of the connection. */
export interface ISocketEvents {
  /** A text came in. */
  received(text: string): void;
  /** There is no connection; it is tried again soon. Told for each try that fails. */
  lost(): void;
}

/**
 * Keeps a connection up until it is disposed.
 *
 * When the page is looked at again, or the network is back, it doesn't wait for its next try:
 * browsers let timers of hidden pages sleep for minutes.
 */
export class Socket {
  constructor(
    private readonly _open: () => WebSocket,
    private readonly _events: ISocketEvents,
    private readonly _random: () => number = Math.random
  ) {
    document.addEventListener("visibilitychange", this._onVisible);
    window.addEventListener("online", this._onOnline);
    this._connect();
  }

  /** Send a text, if there is a connection. A fresh one has to be told everything anyway. */
  send(text: string): void {
    if (this._socket?.readyState === OPEN) {
      this._socket.send(text);
    }
  }

  /** Give up the connection for a new one. */
  again(): void {
    this._tries = 0;
    this._connect();
  }

  dispose(): void {
    document.removeEventListener("visibilitychange", this._onVisible);
    window.removeEventListener("online", this._onOnline);
    this._drop();
  }

  private _connect(): void {
    this._drop();
    let socket: WebSocket;
    try {
      socket = this._open();
    } catch (error) {
      // An address that can't be one, or a page that may not connect there.
      console.error("resilient_nb: no connection can be made.", error);
      this._lost();
      return;
    }
    this._socket = socket;
    this._timer = window.setTimeout(() => this._lost(), PATIENCE);
    socket.onopen = () => window.clearTimeout(this._timer);
    socket.onmessage = event => {
      this._tries = 0;
      this._events.received(event.data as string);
    };
    socket.onclose = () => this._lost();
  }

  private _lost(): void {
    this._drop();
    this._timer = window.setTimeout(() => this._connect(), delay(this._tries, this._random()));
    this._tries += 1;
    this._events.lost();
  }

  private _drop(): void {
    window.clearTimeout(this._timer);
    const socket = this._socket;
    this._socket = null;
    if (socket !== null) {
      // What the old one still says is of no interest.
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  private readonly _onVisible = (): void => {
    if (document.visibilityState === "visible" && this._socket === null) {
      this._tries = 0;
      this._connect();
    }
  };

  // The network may be another one, and the old connection dead without a word.
  private readonly _onOnline = (): void => this.again();

  private _socket: WebSocket | null = null;
  private _timer = 0;
  private _tries = 0;
}

// `WebSocket.OPEN`; which class there is, the settings say.
const OPEN = 1;

/** Return the milliseconds before the next try: twice as long each time, and at random. */
export function delay(tries: number, random: number): number {
  const most = Math.min(LATEST, 2 * SOONEST * 2 ** tries);
  return SOONEST + random * (most - SOONEST);
}
