// What the sidebar's icon tells while the sidebar is closed. Pure.

import type { TranslationBundle } from "@jupyterlab/translation";

import type { AlertsReport, BoardRow } from "../protocol";
import { holdsGang } from "../states";

/** A few characters on the icon, and what they mean, as its title. */
export interface IBadge {
  readonly text: string;
  readonly caption: string;
}

/** Return how many jobs run, and whether something is wrong. */
export function badge(
  rows: readonly BoardRow[],
  alerts: AlertsReport | null,
  trans: TranslationBundle
): IBadge {
  const running = rows.filter(row => holdsGang(row.state)).length;
  const firing = alerts?.firing.length ?? 0;
  const parts = [
    trans._n("%1 job runs", "%1 jobs run", running),
    ...(firing > 0 ? [trans._n("%1 alert", "%1 alerts", firing)] : [])
  ];
  return {
    text: firing > 0 ? "!" : running > 99 ? "99+" : running > 0 ? String(running) : "",
    caption: `resilient_nb: ${parts.join(", ")}`
  };
}
