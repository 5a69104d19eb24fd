// The live state of all jobs, from the Jupyter server: one connection for the whole application.

import { URLExt } from "@jupyterlab/coreutils";
import type { ServerConnection } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { IDisposable } from "@lumino/disposable";
import { type ISignal, Signal } from "@lumino/signaling";

import { Api, NAMESPACE } from "./api";
import { BoardModel } from "./board";
import { Clock } from "./clock";
import { Jobs } from "./jobs";
import { PROTOCOL } from "./protocol";
import type {
  Action,
  DiffReport,
  Done,
  Down,
  Hello,
  LogMatches,
  LogText,
  News,
  WhyReport,
  Wish
} from "./protocol";
import { Socket } from "./socket";
import type { Contact, IBoardModel, IFeed, IJobModel, ISaved } from "./tokens";

/**
 * Follows a cluster through the Jupyter server. No kernel is needed for it.
 *
 * @param settings - of the Jupyter server.
 * @param cluster - address of the scheduler; "" for the one that the server finds.
 * @param trans - for what it says itself.
 */
export class Feed implements IFeed, IDisposable {
  constructor(
    private readonly _settings: ServerConnection.ISettings,
    private _cluster: string,
    private readonly _trans: TranslationBundle
  ) {
    this._api = new Api(_settings, _cluster, _trans);
    this.contactChanged = this._contactChanged = new Signal<IFeed, Contact>(this);
    this._socket = new Socket(() => new _settings.WebSocket(address(_settings, this._cluster)), {
      received: text => this._receive(text),
      lost: () => this._lose()
    });
  }

  readonly contactChanged: ISignal<IFeed, Contact>;

  get contact(): Contact {
    return this._contact;
  }

  get user(): string {
    return this._user;
  }

  get clusterId(): string {
    return this._clusterId;
  }

  get board(): IBoardModel {
    return this._board;
  }

  now(): number {
    return this._clock.now();
  }

  job(id: string, saved: ISaved | null = null, cluster = ""): IJobModel {
    return this._jobs.hold(id, saved, cluster);
  }

  act(action: Omit<Action, "request_id">): Promise<Done> {
    return this._api.act(action);
  }

  log(
    job: string,
    rank: number,
    offset: number,
    limit: number,
    epoch?: number
  ): Promise<LogText> {
    return this._api.get("log", { job, rank, offset, limit, epoch });
  }

  search(job: string, rank: number, text: string, epoch?: number): Promise<LogMatches> {
    return this._api.get("search", { job, rank, text, epoch });
  }

  diff(a: string, b: string): Promise<DiffReport> {
    return this._api.get("diff", { a, b });
  }

  why(job: string): Promise<WhyReport> {
    return this._api.get("why", { job });
  }

  /** Connect anew at once; from now on to this cluster. What is known of another one goes. */
  connect(cluster: string): void {
    if (cluster !== this._cluster) {
      this._cluster = cluster;
      this._api = new Api(this._settings, cluster, this._trans);
    }
    this._understood = false;
    // What is shown may be of another cluster than actions now go to.
    this._setContact({ kind: "connecting" });
    this._socket.again();
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    this._socket.dispose();
    this._jobs.dispose();
    this._board.dispose();
    Signal.clearData(this);
  }

  // --- what comes in --------------------------------------------------------------------------

  private _receive(text: string): void {
    let message: Hello | News | Down;
    try {
      message = JSON.parse(text) as Hello | News | Down;
    } catch (error) {
      console.error("resilient_nb: a message can't be read.", error);
      return;
    }
    if (message.type === "hello") {
      this._greet(message);
    } else if (!this._understood) {
      return;
    } else if (message.type === "news") {
      this._take(message);
    } else if (message.type === "down") {
      this._setContact({ kind: "down", why: message.why, noCluster: message.no_cluster });
    }
  }

  private _greet(hello: Hello): void {
    const first = !this._understood;
    this._understood = hello.protocol === PROTOCOL;
    if (!this._understood) {
      // The connection stays: when the server is started again, it says hello again.
      this._setContact({ kind: "down", why: this._mismatch(hello), noCluster: false });
      return;
    }
    // It comes again if another cluster knows the user by another name.
    this._user = hello.user;
    if (first) {
      this._setContact({ kind: "connecting" });
    }
    this._wish();
  }

  private _mismatch(hello: Hello): string {
    return hello.protocol > PROTOCOL
      ? this._trans.__(
          "The Jupyter server has a newer resilient_nb (%1) than this page: reload the page.",
          hello.version
        )
      : this._trans.__(
          "The Jupyter server runs an older resilient_nb (%1) than this page: restart the server.",
          hello.version
        );
  }

  private _take(news: News): void {
    this._clock.hear(news.at);
    if (news.cluster_id !== this._clusterId) {
      if (this._clusterId !== "") {
        this._board.reset();
      }
      this._clusterId = news.cluster_id;
      this._jobs.follow(news.cluster_id);
    }
    if (news.board !== null) {
      this._board.apply(news.board);
    }
    this._jobs.take(news.jobs, news.unknown);
    this._setContact({ kind: "live" });
    this._board.flush();
    this._jobs.flush();
  }

  private _lose(): void {
    this._understood = false;
    if (this._contact.kind !== "offline") {
      this._setContact({ kind: "offline", since: this.now() });
    }
  }

  private _setContact(contact: Contact): void {
    if (!same(this._contact, contact)) {
      this._contact = contact;
      this._contactChanged.emit(contact);
    }
  }

  // --- what is wished -------------------------------------------------------------------------

  // A notebook with many panels wishes for all of them at once.
  private _wishSoon(): void {
    if (!this._wishing) {
      this._wishing = true;
      queueMicrotask(() => this._wish());
    }
  }

  private _wish(): void {
    this._wishing = false;
    if (this._understood) {
      const wish: Wish = { type: "wish", jobs: this._jobs.wished() };
      this._socket.send(JSON.stringify(wish));
    }
  }

  private _api: Api;
  private readonly _socket: Socket;
  private readonly _board = new BoardModel();
  private readonly _jobs = new Jobs(() => this._wishSoon());
  private readonly _clock = new Clock();
  private readonly _contactChanged: Signal<IFeed, Contact>;
  private _contact: Contact = { kind: "connecting" };
  private _user = "";
  private _clusterId = "";
  /** Whether the server has said hello in our protocol. */
  private _understood = false;
  private _wishing = false;
  private _isDisposed = false;
}

/** Return the feed's URL, with the token if the browser would send no cookie there. */
function address(settings: ServerConnection.ISettings, cluster: string): string {
  const query = cluster === "" ? [] : [`cluster=${encodeURIComponent(cluster)}`];
  if (settings.appendToken && settings.token !== "") {
    query.push(`token=${encodeURIComponent(settings.token)}`);
  }
  const url = URLExt.join(settings.wsUrl, NAMESPACE, "feed");
  return query.length > 0 ? `${url}?${query.join("&")}` : url;
}

function same(a: Contact, b: Contact): boolean {
  if (a.kind === "down" && b.kind === "down") {
    return a.why === b.why && a.noCluster === b.noCluster;
  }
  return a.kind === b.kind;
}
