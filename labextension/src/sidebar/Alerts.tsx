// What fires now, and, folded, what is over.

import type { TranslationBundle } from "@jupyterlab/translation";

import { clean } from "../format";
import type { Alert, AlertsReport, Severity } from "../protocol";
import { clock } from "../times";

export interface IAlertsProps {
  readonly alerts: AlertsReport;
  readonly now: number;
  readonly trans: TranslationBundle;
  onOpen(job: string): void;
}

export function Alerts({ alerts, now, trans, onOpen }: IAlertsProps) {
  const { firing, recent } = alerts;
  if (firing.length === 0 && recent.length === 0) {
    return null;
  }
  const row = (alert: Alert) => (
    <AlertRow key={alert.key} alert={alert} now={now} trans={trans} onOpen={onOpen} />
  );
  return (
    <section class="rnb-Part rnb-Alerts">
      <h3>
        {firing.length > 0
          ? trans._n("%1 alert", "%1 alerts", firing.length)
          : trans.__("No alert now")}
      </h3>
      {firing.length > 0 && (
        <ul role="list" aria-label={trans.__("Alerts")}>
          {firing.map(row)}
        </ul>
      )}
      {recent.length > 0 && (
        <details>
          <summary>{trans._n("%1 is over", "%1 are over", recent.length)}</summary>
          <ul role="list" aria-label={trans.__("Alerts that are over")}>
            {recent.map(row)}
          </ul>
        </details>
      )}
    </section>
  );
}

interface IAlertRowProps {
  readonly alert: Alert;
  readonly now: number;
  readonly trans: TranslationBundle;
  onOpen(job: string): void;
}

function AlertRow({ alert, now, trans, onOpen }: IAlertRowProps) {
  const [symbol, word] = severity(alert.severity, trans);
  const job = alert.labels["job"];
  return (
    <li class="rnb-Alert" data-severity={alert.severity}>
      <span class="rnb-Alert-severity">
        <span aria-hidden="true">{symbol}</span> {word}
      </span>{" "}
      {clean(alert.text)}{" "}
      <span class="rnb-Muted">
        {alert.stage === "resolved"
          ? trans.__("over since %1", clock(alert.at, now))
          : trans.__("since %1", clock(alert.since, now))}
      </span>{" "}
      {job && (
        <button type="button" class="rnb-Link" onClick={() => onOpen(job)}>
          {job}
        </button>
      )}
    </li>
  );
}

function severity(name: Severity, trans: TranslationBundle): [symbol: string, word: string] {
  switch (name) {
    case "critical":
      return ["✖", trans.__("Critical")];
    case "warning":
      return ["▲", trans.__("Warning")];
    case "info":
      return ["●", trans.__("Info")];
  }
}
