// What is asked of the Jupyter server by REST: actions, logs, comparisons.

import { URLExt } from "@jupyterlab/coreutils";
import { ServerConnection } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";

import type { Action, Done } from "./protocol";
import { Refusal } from "./tokens";

/** Below the server's base URL. */
export const NAMESPACE = "resilient-nb";

/** An action's answer may be lost, or the cluster restart: it is repeated for so long, in ms. */
const KEEP_TRYING = 20_000;
/** An action's answer that takes longer is taken for lost. */
const ANSWER_WITHIN = 10_000;
/** Milliseconds between two tries, at least and at most. */
const SOONEST = 250;
const LATEST = 2000;

/** The server, or a proxy in front of it, can't say now whether anything was done. */
const IN_DOUBT: readonly number[] = [502, 503, 504];

type Query = Readonly<Record<string, string | number | undefined>>;

/** An answer as it came, whatever it says. */
interface IAnswer {
  readonly status: number;
  readonly text: string;
}

/**
 * Asks the Jupyter server. Every method rejects with a `Refusal`.
 *
 * `makeRequest` adds the token, and the XSRF cookie as a header.
 */
export class Api {
  constructor(
    private readonly _settings: ServerConnection.ISettings,
    private readonly _cluster: string,
    private readonly _trans: TranslationBundle
  ) {}

  /** Read something. What is undefined in the query isn't said. */
  async get<T>(route: string, query: Query): Promise<T> {
    const answer = await this._ask(this._url(route, query), { method: "GET" });
    if (answer === null) {
      throw new Refusal("no-answer", this._trans.__("The Jupyter server doesn't answer."));
    }
    return this._read<T>(answer);
  }

  /** Do something once, however often it has to be said. */
  async act(action: Omit<Action, "request_id">): Promise<Done> {
    const body = JSON.stringify({ ...action, request_id: requestId() });
    const giveUp = Date.now() + KEEP_TRYING;
    for (let wait = SOONEST; ; wait = Math.min(LATEST, 2 * wait)) {
      const answer = await this._post(body);
      if (answer !== null && !IN_DOUBT.includes(answer.status)) {
        return this._read<Done>(answer);
      }
      if (Date.now() + wait > giveUp) {
        throw this._inDoubt(answer);
      }
      await new Promise(resolve => window.setTimeout(resolve, wait));
    }
  }

  private async _post(body: string): Promise<IAnswer | null> {
    const abort = new AbortController();
    const timer = window.setTimeout(() => abort.abort(), ANSWER_WITHIN);
    const init = { method: "POST", body, signal: abort.signal };
    try {
      return await this._ask(this._url("actions", {}), init);
    } finally {
      window.clearTimeout(timer);
    }
  }

  /** Return what came back; null if nothing did. */
  private async _ask(url: string, init: RequestInit): Promise<IAnswer | null> {
    try {
      const response = await ServerConnection.makeRequest(url, init, this._settings);
      return { status: response.status, text: await response.text() };
    } catch (error) {
      // A TypeError is how `fetch` says it, be it before the answer or in the midst of it.
      if (error instanceof TypeError || init.signal?.aborted === true) {
        return null;
      }
      throw error;
    }
  }

  private _read<T>(answer: IAnswer): T {
    const value = parsed(answer.text);
    if (answer.status >= 200 && answer.status < 300 && value !== undefined) {
      return value as T;
    }
    throw this._refusal(answer);
  }

  private _refusal(answer: IAnswer): Refusal {
    const value = parsed(answer.text) as Record<string, unknown> | null | undefined;
    if (typeof value?.code === "string" && typeof value.message === "string") {
      return new Refusal(value.code, value.message);
    }
    // Not our extension's words: Jupyter's own, or a proxy's.
    if (answer.status === 401 || answer.status === 403) {
      const said = this._trans.__(
        "The Jupyter server doesn't let you do this (%1). Reload the page to log in again.",
        answer.status
      );
      return new Refusal("not-allowed", said);
    }
    if (answer.status === 404) {
      const said = this._trans.__(
        "The Jupyter server lacks resilient_nb. Install it there, and start the server again."
      );
      return new Refusal("no-extension", said);
    }
    const said = this._trans.__(
      "The Jupyter server answers with an error (%1). Its log says more.",
      answer.status
    );
    return new Refusal(`http-${answer.status}`, said);
  }

  private _inDoubt(answer: IAnswer | null): Refusal {
    const refusal = answer === null ? null : this._refusal(answer);
    if (refusal !== null && !refusal.code.startsWith("http-")) {
      return refusal;
    }
    const said = this._trans.__(
      "No answer came. It may be done all the same: look at the job before you try again."
    );
    return new Refusal("no-answer", said);
  }

  private _url(route: string, query: Query): string {
    const said = Object.entries({ ...query, cluster: this._cluster || undefined })
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`);
    const url = URLExt.join(this._settings.baseUrl, NAMESPACE, route);
    return said.length > 0 ? `${url}?${said.join("&")}` : url;
  }
}

/** Return an id that no other request has. */
export function requestId(): string {
  // Only pages from https or localhost have `randomUUID`; all have random numbers.
  if (typeof crypto.randomUUID === "function") {
    return crypto.randomUUID();
  }
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
