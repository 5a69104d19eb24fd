// What the user has set, typed; it follows the settings editor at once.

import type { ISettingRegistry } from "@jupyterlab/settingregistry";
import { Signal } from "@lumino/signaling";
import type { ISignal } from "@lumino/signaling";

import { ALL_SECTIONS } from "./panel/context";
import type { ISections as IPanelSections } from "./panel/context";
import type { Scope } from "./sidebar/filter";

/** Which parts the sidebar has below its list. */
export interface ISidebarSections {
  readonly alerts: boolean;
  readonly cluster: boolean;
  readonly shares: boolean;
}

/** As in schema/plugin.json. */
export interface IPreferences {
  readonly side: "left" | "right";
  readonly scope: Scope;
  /** How often a second views are drawn again, at most. */
  readonly refresh: number;
  /** The cluster to look at where none was started or connected to; "" for none. */
  readonly address: string;
  readonly sidebar: ISidebarSections;
  readonly panel: IPanelSections;
}

export const DEFAULTS: IPreferences = {
  side: "left",
  scope: "mine",
  refresh: 4,
  address: "",
  sidebar: { alerts: true, cluster: true, shares: true },
  panel: ALL_SECTIONS
};

/** The preferences as they are now. Without a settings registry they are the defaults. */
export class Preferences {
  get now(): IPreferences {
    return this._now;
  }

  get changed(): ISignal<this, IPreferences> {
    return this._changed;
  }

  /** Follow settings from now on. */
  follow(settings: ISettingRegistry.ISettings): void {
    const read = () => {
      this._now = preferences(settings.composite);
      this._changed.emit(this._now);
    };
    settings.changed.connect(read);
    read();
  }

  private _now = DEFAULTS;
  private readonly _changed = new Signal<this, IPreferences>(this);
}

/** Return preferences from settings; what is missing or of another kind is the default. */
export function preferences(settings: { readonly [name: string]: unknown }): IPreferences {
  const { side, scope, refresh, address, sidebar, panel } = settings;
  return {
    side: side === "right" ? "right" : "left",
    scope: scope === "groups" || scope === "everyone" ? scope : DEFAULTS.scope,
    refresh: typeof refresh === "number" ? Math.min(4, Math.max(1, refresh)) : DEFAULTS.refresh,
    address: typeof address === "string" ? address.trim() : DEFAULTS.address,
    sidebar: switches(DEFAULTS.sidebar, sidebar),
    panel: switches(DEFAULTS.panel, panel)
  };
}

function switches<T extends { readonly [K in keyof T]: boolean }>(defaults: T, set: unknown): T {
  const given = new Map(typeof set === "object" && set !== null ? Object.entries(set) : []);
  const pairs = Object.entries(defaults).map(([name, value]) => {
    const chosen: unknown = given.get(name);
    return [name, typeof chosen === "boolean" ? chosen : value];
  });
  return Object.fromEntries(pairs) as T;
}
