// The cluster: how many slots are in use, who is entitled to how many, and what its hosts do.

import type { TranslationBundle } from "@jupyterlab/translation";

import { clean } from "../format";
import type { ClusterView, HostLease, HostView, ShareRow } from "../protocol";

export interface IClusterProps {
  readonly cluster: ClusterView;
  readonly shares: readonly ShareRow[];
  readonly leases: readonly HostLease[];
  readonly trans: TranslationBundle;
  onOpen(job: string): void;
}

export function Cluster({ cluster, shares, leases, trans, onOpen }: IClusterProps) {
  const { used, slots, hosts, max_workers: most } = cluster;
  const unwell = hosts.filter(host => host.unwell).length;
  return (
    <section class="rnb-Part rnb-Cluster">
      <h3>
        {trans.__("Slots in use")}
        <span class="rnb-Cluster-figure">{trans.__("%1 of %2", used, slots)}</span>
      </h3>
      <Meter label={trans.__("Slots in use")} value={used} most={slots} trans={trans} />
      {most !== null && most > slots && (
        <p class="rnb-Muted">{trans.__("The cluster grows to %1 workers if need be.", most)}</p>
      )}
      {shares.length > 0 && <Shares shares={shares} trans={trans} />}
      <details class="rnb-Hosts" open={unwell > 0}>
        <summary>
          {trans._n("%1 host", "%1 hosts", hosts.length)}
          {unwell > 0 && (
            <span class="rnb-Unwell">
              {" "}
              <span aria-hidden="true">▲</span> {trans.__("%1 unwell", unwell)}
            </span>
          )}
        </summary>
        <ul role="list">
          {hosts.map(host => (
            <Host
              key={host.id}
              host={host}
              leases={leases.filter(lease => lease.host === host.id)}
              trans={trans}
              onOpen={onOpen}
            />
          ))}
        </ul>
      </details>
    </section>
  );
}

interface IMeterProps {
  readonly label: string;
  readonly value: number;
  readonly most: number;
  readonly trans: TranslationBundle;
}

function Meter({ label, value, most, trans }: IMeterProps) {
  return (
    <div
      class="rnb-Meter"
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={Math.max(1, most)}
      aria-valuenow={value}
      aria-valuetext={trans.__("%1 of %2", value, most)}
    >
      <div class="rnb-Meter-bar" style={{ width: `${most > 0 ? (100 * value) / most : 0}%` }} />
    </div>
  );
}

function Shares({ shares, trans }: { shares: readonly ShareRow[]; trans: TranslationBundle }) {
  return (
    <details class="rnb-Shares">
      <summary>{trans.__("Shares")}</summary>
      <table aria-label={trans.__("Shares")}>
        <thead>
          <tr>
            <th scope="col">{trans.__("Who")}</th>
            <th scope="col" title={trans.__("Slots that they are entitled to now")}>
              {trans.__("Entitled")}
            </th>
            <th scope="col" title={trans.__("Slots that they have")}>
              {trans.__("Held")}
            </th>
            <th scope="col" title={trans.__("Slots that they wait for")}>
              {trans.__("Waiting")}
            </th>
          </tr>
        </thead>
        <tbody>
          {shares.map(share => (
            <tr key={`${share.group}/${share.user}`} data-member={share.user !== ""}>
              <th scope="row">{share.user || share.group}</th>
              <td>{Math.round(share.entitled * 10) / 10}</td>
              <td>{share.held}</td>
              <td>{share.waiting}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}

interface IHostProps {
  readonly host: HostView;
  readonly leases: readonly HostLease[];
  readonly trans: TranslationBundle;
  onOpen(job: string): void;
}

function Host({ host, leases, trans, onOpen }: IHostProps) {
  return (
    <li class="rnb-Host">
      <div class="rnb-Host-head">
        <span class="rnb-Host-name">{host.id}</span>
        <span>{trans.__("%1 of %2 slots", host.used, host.slots)}</span>
      </div>
      <Meter
        label={trans.__("Slots in use on %1", host.id)}
        value={host.used}
        most={host.slots}
        trans={trans}
      />
      <p class="rnb-Muted">
        {trans._n("%1 worker", "%1 workers", host.workers.length)}
        {!host.warm && <> · {trans.__("warming up")}</>}
      </p>
      {host.unwell !== "" && (
        <p class="rnb-Unwell">
          <span aria-hidden="true">▲</span> {trans.__("Unwell: %1", clean(host.unwell))}
        </p>
      )}
      {leases.length > 0 && (
        <ul role="list" class="rnb-Leases" aria-label={trans.__("Jobs on %1", host.id)}>
          {leases.map(lease => (
            <li key={lease.job}>
              <button type="button" class="rnb-Link" onClick={() => onOpen(lease.job)}>
                {lease.job}
              </button>{" "}
              {trans._n("%1 slot", "%1 slots", lease.slots)}
            </li>
          ))}
        </ul>
      )}
    </li>
  );
}
