// The metrics of a job as plots, and which of them; other runs drawn over them.

import { Component, createRef } from "preact";

import { oneLine } from "../format";
import type { IJobModel } from "../tokens";
import type { IPanel } from "./context";
import { arranged } from "./lines";
import type { ICurve } from "./lines";
import { Plot } from "./plot";
import { DASHES } from "./theme";

/** Metrics that are shown unless others are chosen. */
const SHOWN = 4;
const SHOWN_COMPACT = 2;

export interface IPlotsProps {
  readonly panel: IPanel;
  /** Another number when points are new, of this job or of another that is drawn over it. */
  readonly version: number;
}

interface IPlotsState {
  /** Null until something is chosen. */
  readonly chosen: ReadonlySet<string> | null;
  readonly logarithmic: boolean;
  readonly others: readonly IJobModel[];
}

export class Plots extends Component<IPlotsProps, IPlotsState> {
  constructor(props: IPlotsProps) {
    super(props);
    const kept = props.panel.kept.get("plots") as IPlotsState | undefined;
    this.state = kept ?? { chosen: null, logarithmic: false, others: [] };
  }

  shouldComponentUpdate(next: IPlotsProps, state: IPlotsState): boolean {
    return next.version !== this.props.version || state !== this.state;
  }

  componentWillUnmount(): void {
    this.props.panel.kept.set("plots", this.state);
  }

  render() {
    const { panel, version } = this.props;
    const { logarithmic } = this.state;
    const names = arranged(panel.model.series.keys());
    const chosen = this.chosen(names);
    return (
      <div class="rnb-Plots" ref={this.all}>
        <div class="rnb-Bar">
          {names.length > 1 ? this.chips(names, chosen) : null}
          <label class="rnb-Check">
            <input
              type="checkbox"
              checked={logarithmic}
              onChange={e => this.setState({ logarithmic: e.currentTarget.checked })}
            />
            {panel.trans.__("Log scale")}
          </label>
          {this.adding()}
        </div>
        {this.legend()}
        <div class="rnb-Plots-all">
          {names
            .filter(name => chosen.has(name))
            .map(name => (
              <Plot
                key={name}
                panel={panel}
                metric={name}
                curves={this.curves(name)}
                logarithmic={logarithmic}
                version={version}
              />
            ))}
        </div>
      </div>
    );
  }

  private chosen(names: readonly string[]): ReadonlySet<string> {
    const most = this.props.panel.compact ? SHOWN_COMPACT : SHOWN;
    return this.state.chosen ?? new Set(names.slice(0, most));
  }

  private chips(names: readonly string[], chosen: ReadonlySet<string>) {
    return (
      <span class="rnb-Bar-group" role="group" aria-label={this.props.panel.trans.__("Metrics")}>
        {names.map(name => (
          <label key={name} class="rnb-Check">
            <input
              type="checkbox"
              checked={chosen.has(name)}
              onChange={e => this.choose(names, name, e.currentTarget.checked)}
            />
            {oneLine(name)}
          </label>
        ))}
      </span>
    );
  }

  private choose(names: readonly string[], name: string, on: boolean): void {
    const chosen = new Set(this.chosen(names));
    if (on) {
      chosen.add(name);
    } else {
      chosen.delete(name);
    }
    this.setState({ chosen });
  }

  /** A list of the jobs that can be drawn over this one. */
  private adding() {
    const { panel } = this.props;
    const { trans } = panel;
    const taken = new Set([panel.model.id, ...this.state.others.map(other => other.id)]);
    const rows = panel.feed.board.rows.filter(row => !taken.has(row.id) && row.step > 0);
    const full = this.state.others.length >= DASHES.length - 1;
    if (rows.length === 0 && this.state.others.length === 0) {
      return null;
    }
    return (
      <select
        aria-label={trans.__("Compare with another job")}
        disabled={full}
        title={full ? trans.__("Take one away first: more curves can't be told apart.") : undefined}
        value=""
        onChange={e => this.add(e.currentTarget.value)}
      >
        <option value="">{trans.__("Compare with…")}</option>
        {rows.map(row => (
          <option key={row.id} value={row.id}>
            {oneLine(row.label ? `${row.id} (${row.label})` : row.id)}
          </option>
        ))}
      </select>
    );
  }

  private add(id: string): void {
    if (!id) {
      return;
    }
    const { panel } = this.props;
    const other = panel.feed.job(id);
    other.changed.connect((_, change) => {
      if (change.points || other.unknown) {
        panel.touch();
      }
    });
    panel.others.add(other);
    this.setState({ others: [...this.state.others, other] });
  }

  /** The keyboard goes to where another one can be taken: its button is there no more. */
  private remove(other: IJobModel): void {
    this.setState({ others: this.state.others.filter(one => one !== other) }, () =>
      this.all.current?.querySelector("select")?.focus()
    );
    this.props.panel.others.delete(other);
    other.dispose();
  }

  private curves(metric: string): ICurve[] {
    const own = this.props.panel.model;
    const empty = { steps: [], values: [] };
    return [own, ...this.state.others].map(job => ({
      name: job.id,
      points: job.series.get(metric) ?? empty
    }));
  }

  private legend() {
    const { others } = this.state;
    const { panel } = this.props;
    if (others.length === 0) {
      return null;
    }
    return (
      <ul class="rnb-Legend" aria-label={panel.trans.__("Curves")}>
        {[panel.model, ...others].map((job, i) => (
          <li key={job.id}>
            <svg width="34" height="8" aria-hidden="true">
              <line
                x1="1"
                x2="33"
                y1="4"
                y2="4"
                class={`rnb-line-${i}`}
                stroke-dasharray={DASHES[i].join(" ")}
              />
            </svg>
            {oneLine(job.id)}
            {job.unknown ? <span class="rnb-quiet">{panel.trans.__("not found")}</span> : null}
            {i > 0 ? (
              <button
                type="button"
                class="rnb-Legend-remove"
                aria-label={panel.trans.__("Don't show %1", job.id)}
                onClick={() => this.remove(job)}
              >
                ×
              </button>
            ) : null}
          </li>
        ))}
      </ul>
    );
  }

  private readonly all = createRef<HTMLDivElement>();
}
