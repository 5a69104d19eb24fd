// What differs between two checkpoints, as tables that can be read.

import type { ComponentChildren } from "preact";

import { clean, number, oneLine, size, whole } from "../format";
import type { DiffReport, Kind, TensorChange, ValueChange } from "../protocol";
import { clock } from "../times";
import type { IPanel } from "./context";

/** Of more rows the rest is counted. */
const MOST = 20;

export interface IDifferenceProps {
  readonly panel: IPanel;
  readonly report: DiffReport;
  readonly close: () => void;
}

export function Difference({ panel, report, close }: IDifferenceProps) {
  const { trans, feed } = panel;
  const { a, b } = report;
  const sides = named(report);
  const saved = trans.__("saved %1 and %2", clock(a.at, feed.now()), clock(b.at, feed.now()));
  return (
    <section class="rnb-Diff" aria-label={trans.__("Comparison")}>
      <div class="rnb-Bar">
        <strong>{sides.join(" → ")}</strong>
        <span>{equality(panel, report)}</span>
        <span class="rnb-quiet">{saved}</span>
        <button type="button" class="rnb-Button" onClick={close}>
          {trans.__("Close")}
        </button>
      </div>
      {report.notes.map(note => (
        <p key={note} class="rnb-Note rnb-tone-wait">
          {oneLine(note)}
        </p>
      ))}
      <Table
        panel={panel}
        title={trans.__("Metrics")}
        heads={[trans.__("metric"), ...sides, trans.__("change")]}
        rows={report.metrics.map(m => [
          m.name,
          m.a === null ? "" : number(m.a),
          m.b === null ? "" : number(m.b),
          m.a !== null && m.b !== null ? signed(m.b - m.a) : ""
        ])}
      />
      <Table
        panel={panel}
        title={trans.__("Tracked objects")}
        heads={[
          trans.__("part"),
          trans.__("tensors"),
          trans.__("equal"),
          trans.__("changed"),
          trans.__("added"),
          trans.__("removed"),
          trans.__("size"),
          "‖Δ‖",
          trans.__("max |Δ|"),
          trans.__("relative")
        ]}
        rows={report.parts.map(p => [
          p.name,
          ...[p.tensors, p.equal, p.changed, p.added, p.removed].map(n => (n ? whole(n) : "")),
          p.nbytes_a === p.nbytes_b
            ? size(p.nbytes_a)
            : `${size(p.nbytes_a)} → ${size(p.nbytes_b)}`,
          p.changed ? number(p.norm) : "",
          p.changed ? number(p.max_abs) : "",
          p.changed ? percent(panel, p.relative, p.norm) : ""
        ])}
      />
      <Table
        panel={panel}
        title={trans.__("Tensors, the largest relative change first")}
        heads={[
          trans.__("tensor"),
          trans.__("shape"),
          "‖Δ‖",
          trans.__("max |Δ|"),
          trans.__("relative"),
          trans.__("what")
        ]}
        rows={largest(report.tensors).map(t => [
          t.name,
          shape(t),
          t.norm === null ? "" : number(t.norm),
          t.max_abs === null ? "" : number(t.max_abs),
          t.norm === null ? "" : percent(panel, t.relative, t.norm),
          what(panel, t.kind)
        ])}
      />
      <Values
        panel={panel}
        title={trans.__("Other state")}
        sides={sides}
        changes={report.state}
        more={report.hidden}
      />
      <Values
        panel={panel}
        title={trans.__("Config, data and machine")}
        sides={sides}
        changes={recorded(report)}
        more={0}
      />
      {report.code.diff.length ? (
        <details>
          <summary>{trans.__("The cells differ")}</summary>
          <pre class="rnb-Code" tabIndex={0}>
            {report.code.diff.map(line => (
              <span
                class={
                  line.startsWith("+")
                    ? "rnb-mod-added"
                    : line.startsWith("-")
                      ? "rnb-mod-removed"
                      : undefined
                }
              >
                {`${clean(line)}\n`}
              </span>
            ))}
          </pre>
        </details>
      ) : null}
    </section>
  );
}

interface ITableProps {
  readonly panel: IPanel;
  readonly title: string;
  readonly heads: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Rows that aren't there at all. */
  readonly more?: number;
}

function Table({ panel, title, heads, rows, more = 0 }: ITableProps) {
  if (rows.length === 0) {
    return null;
  }
  const shown = rows.slice(0, MOST);
  const hidden = rows.length - shown.length + more;
  return (
    <div class="rnb-Table" tabIndex={0} role="group" aria-label={title}>
      <table>
        <caption>{title}</caption>
        <thead>
          <tr>
            {heads.map((head, i) => (
              <th key={i} scope="col">
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {shown.map((row, i) => (
            <tr key={i}>{row.map((text, j) => cell(text, j))}</tr>
          ))}
        </tbody>
      </table>
      {hidden > 0 ? (
        <p class="rnb-quiet">{panel.trans.__("… %1 more", whole(hidden))}</p>
      ) : null}
    </div>
  );
}

function cell(text: string, column: number): ComponentChildren {
  return column === 0 ? (
    <th key={column} scope="row">
      {oneLine(text)}
    </th>
  ) : (
    <td key={column}>{oneLine(text)}</td>
  );
}

interface IValuesProps {
  readonly panel: IPanel;
  readonly title: string;
  readonly sides: readonly string[];
  readonly changes: readonly ValueChange[];
  readonly more: number;
}

const Values = ({ panel, title, sides, changes, more }: IValuesProps) => (
  <Table
    panel={panel}
    title={title}
    heads={[panel.trans.__("name"), ...sides]}
    rows={changes.map(c => [c.path, c.a ?? "–", c.b ?? "–"])}
    more={more}
  />
);

/** What the columns are called: two attempts may have made the same step. */
function named({ a, b }: DiffReport): [string, string] {
  return a.ref === b.ref && a.id !== b.id
    ? [oneLine(a.id), oneLine(b.id)]
    : [oneLine(a.ref), oneLine(b.ref)];
}

function equality({ trans }: IPanel, report: DiffReport): string {
  const differing = report.tensors.filter(t => t.kind !== "equal").length;
  if (report.equal) {
    return trans.__("equal state");
  }
  const count = trans._n(
    "%2 tensor",
    "%2 tensors",
    report.tensors.length,
    whole(report.tensors.length)
  );
  return differing
    ? trans.__("%1 of %2 differ", whole(differing), count)
    : trans.__("equal tensors, other state differs");
}

/** Return the tensors that differ, the largest relative change first. */
function largest(tensors: readonly TensorChange[]): TensorChange[] {
  const weight = (t: TensorChange) => (t.norm === null ? Infinity : (t.relative ?? Infinity));
  return tensors
    .filter(t => t.kind !== "equal")
    .sort((a, b) =>
      weight(b) > weight(a) ? 1 : weight(b) < weight(a) ? -1 : a.name.localeCompare(b.name)
    );
}

function what({ trans }: IPanel, kind: Kind): string {
  return {
    added: trans.__("added"),
    changed: "",
    equal: "",
    removed: trans.__("removed"),
    reshaped: trans.__("reshaped"),
    retyped: trans.__("retyped")
  }[kind];
}

function shape(t: TensorChange): string {
  const said = (sizes: number[] | null) => (sizes === null ? "" : `[${sizes.join(", ")}]`);
  const a = `${t.dtype_a ?? ""}${said(t.shape_a)}`;
  const b = `${t.dtype_b ?? ""}${said(t.shape_b)}`;
  return a === b || !a || !b ? a || b : `${a} → ${b}`;
}

function recorded(report: DiffReport): ValueChange[] {
  const { config, data, versions, numerics, environment } = report;
  return Object.entries({ config, data, versions, numerics, environment }).flatMap(
    ([what, changes]) =>
      changes.map(c => ({
        ...c,
        path: c.path.startsWith("[") ? what + c.path : `${what}.${c.path}`
      }))
  );
}

function percent({ trans }: IPanel, relative: number | null, norm: number): string {
  if (relative === null) {
    return norm ? trans.__("from 0") : "";
  }
  return relative < 10 ? `${Number((100 * relative).toPrecision(3))} %` : `${number(relative)}×`;
}

function signed(value: number): string {
  return value > 0 ? `+${number(value)}` : number(value);
}
