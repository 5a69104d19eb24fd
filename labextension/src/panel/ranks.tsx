// The ranks as a grid. Only the lines that can be seen are there, however many ranks a job has.

import { Component, createRef } from "preact";

import { NOTHING, oneLine, rate, share, size, whole } from "../format";
import { RANK } from "../protocol";
import type { RankRow } from "../protocol";
import { sign } from "../states";
import { short } from "../times";
import type { IPanel } from "./context";
import { hasGpu, LINE, ordered, reveal, span } from "./window";
import type { ISpan, RankKey } from "./window";

/** Lines seen at a time, at most. */
const SEEN = 16;
const SEEN_COMPACT = 8;

/** Shortest time between two orderings by what changes, so that lines can be read. */
const REORDER = 2000;

export interface IRanksProps {
  readonly panel: IPanel;
  /** Another number when a rank has changed. */
  readonly version: number;
}

interface IRanksState {
  readonly key: RankKey;
  readonly down: boolean;
  readonly drawn: ISpan;
  /** The rank that the keyboard is at. */
  readonly chosen: number;
}

export class Ranks extends Component<IRanksProps, IRanksState> {
  state: IRanksState = { key: "rank", down: false, drawn: { first: 0, end: 0 }, chosen: 0 };

  constructor(props: IRanksProps) {
    super(props);
    this.seen = props.panel.compact ? SEEN_COMPACT : SEEN;
    const kept = props.panel.kept.get("ranks") as IRanksState | undefined;
    this.state = { ...this.state, ...kept, drawn: this.state.drawn };
  }

  componentWillUnmount(): void {
    this.props.panel.kept.set("ranks", this.state);
  }

  shouldComponentUpdate(next: IRanksProps, state: IRanksState): boolean {
    return next.version !== this.props.version || state !== this.state;
  }

  render() {
    const { panel } = this.props;
    const { trans, uid } = panel;
    const rows = this.order();
    const height = this.height(rows.length);
    const { first, end } = span(this.top, height, rows.length);
    const at = rows.findIndex(row => row[RANK.rank] === this.state.chosen);
    const gpu = rows.some(hasGpu);
    const columns = this.columns(gpu);
    return (
      <div
        ref={this.grid}
        class={`rnb-Ranks${gpu ? " rnb-mod-gpu" : ""}`}
        role="grid"
        tabIndex={0}
        aria-label={trans.__("Ranks")}
        aria-rowcount={rows.length + 1}
        aria-colcount={columns.length}
        aria-activedescendant={at >= first && at < end ? `${uid}-rank-${at}` : undefined}
        style={{ height: `${height + LINE + 2}px` }}
        onKeyDown={this.onKeyDown}
        onScroll={this.onScroll}
      >
        <div role="rowgroup" class="rnb-Ranks-head">
          <div role="row" aria-rowindex={1} class="rnb-Ranks-row">
            {columns.map(([key, name, title]) => this.head(key, name, title))}
          </div>
        </div>
        <div role="rowgroup" class="rnb-Ranks-body" style={{ height: `${rows.length * LINE}px` }}>
          {rows
            .slice(first, end)
            .map((row, i) => this.line(row, first + i, first + i === at, gpu))}
        </div>
      </div>
    );
  }

  private columns(gpu: boolean): [RankKey, string, string][] {
    const { trans } = this.props.panel;
    const told = trans.__("Time in which the GPU computes, and its memory that the rank has reserved");
    return [
      ["rank", trans.__("Rank"), ""],
      ["state", trans.__("State"), ""],
      ["step", trans.__("Step"), ""],
      ["rate", trans.__("Rate"), ""],
      ["data_s", trans.__("Data"), trans.__("Time of a step spent waiting for data")],
      ["compute_s", trans.__("Compute"), trans.__("Time of a step spent computing")],
      ["wait_s", trans.__("Wait"), trans.__("Time of a step spent waiting for other ranks")],
      ["rss", trans.__("Memory"), trans.__("Memory in use, and its share of the limit")],
      ["cpu", trans.__("CPU"), trans.__("Cores in use")],
      ...(gpu ? [["gpu", trans.__("GPU"), told] as [RankKey, string, string]] : []),
      ["host", trans.__("Host"), ""],
      ["pid", trans.__("Pid"), ""],
      ["straggler", trans.__("Note"), trans.__("Whether it holds the others up")]
    ];
  }

  private head(key: RankKey, name: string, title: string) {
    const { key: by, down } = this.state;
    const sorted = key !== by ? "none" : down ? "descending" : "ascending";
    return (
      <div key={key} role="columnheader" aria-sort={sorted} class={`rnb-Ranks-${key}`}>
        <button type="button" title={title || undefined} onClick={() => this.sort(key)}>
          {name}
          <span aria-hidden="true">{key !== by ? null : down ? " ▾" : " ▴"}</span>
        </button>
      </div>
    );
  }

  private line(row: RankRow, index: number, chosen: boolean, gpu: boolean) {
    const { panel } = this.props;
    const { trans } = panel;
    const timed = row[RANK.data_s] + row[RANK.compute_s] + row[RANK.wait_s] > 0;
    const time = (seconds: number) => (timed ? short(trans, seconds) : NOTHING);
    const { symbol, word, tone } = sign(trans, row[RANK.state]);
    const slow = row[RANK.straggler];
    return (
      <div
        key={index}
        id={`${panel.uid}-rank-${index}`}
        role="row"
        aria-rowindex={index + 2}
        aria-selected={chosen}
        class={`rnb-Ranks-row${slow ? " rnb-mod-slow" : ""}`}
        style={{ top: `${index * LINE}px` }}
        onClick={() => this.setState({ chosen: row[RANK.rank] })}
        onDblClick={() => this.open(row[RANK.rank])}
      >
        <div role="gridcell">{String(row[RANK.rank])}</div>
        <div role="gridcell" class="rnb-Ranks-state">
          <span aria-hidden="true" class={`rnb-sign rnb-tone-${tone}`}>
            {symbol}
          </span>
          {word}
        </div>
        <div role="gridcell">{whole(row[RANK.step])}</div>
        <div role="gridcell">{rate(trans, row[RANK.rate]) || NOTHING}</div>
        <div role="gridcell">{time(row[RANK.data_s])}</div>
        <div role="gridcell">{time(row[RANK.compute_s])}</div>
        <div role="gridcell">{time(row[RANK.wait_s])}</div>
        <div role="gridcell">{memory(row)}</div>
        <div role="gridcell">{row[RANK.cpu] ? row[RANK.cpu].toFixed(2) : NOTHING}</div>
        {gpu ? <div role="gridcell">{gpuOf(row)}</div> : null}
        <div role="gridcell" class="rnb-Ranks-host" title={oneLine(row[RANK.host])}>
          {oneLine(row[RANK.host]) || NOTHING}
        </div>
        <div role="gridcell">{row[RANK.pid] || NOTHING}</div>
        <div role="gridcell" class="rnb-Ranks-straggler">
          {slow ? trans.__("▲ straggler") : null}
        </div>
      </div>
    );
  }

  /** Return the ranks in the order wanted. What changes always is ordered anew now and then. */
  private order(): readonly RankRow[] {
    const { key, down } = this.state;
    const rows = this.props.panel.model.ranks;
    if (key === "rank" && !down) {
      return rows;
    }
    const now = performance.now();
    const fresh = this.places.length === rows.length && this.sortedBy === `${key} ${down}`;
    if (!fresh || now - this.sortedAt > REORDER) {
      this.places = ordered(rows, key, down).map(row => row[RANK.rank]);
      this.sortedBy = `${key} ${down}`;
      this.sortedAt = now;
    }
    return this.places.map(rank => rows[rank]);
  }

  private sort(key: RankKey): void {
    // Numbers are mostly looked at for their largest.
    const first = !["rank", "state", "host", "pid"].includes(key);
    const down = key === this.state.key ? !this.state.down : first;
    this.setState({ key, down });
  }

  private height(count: number): number {
    return LINE * Math.max(1, Math.min(this.seen, count));
  }

  private open(rank: number): void {
    this.setState({ chosen: rank });
    this.props.panel.rankChosen.emit(rank);
  }

  private onScroll = () => {
    this.top = this.grid.current?.scrollTop ?? 0;
    const count = this.props.panel.model.ranks.length;
    const drawn = span(this.top, this.height(count), count);
    if (drawn.first !== this.state.drawn.first || drawn.end !== this.state.drawn.end) {
      this.setState({ drawn });
    }
  };

  private onKeyDown = (event: KeyboardEvent) => {
    // In the head, keys are for its buttons.
    if (event.target !== this.grid.current || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const rows = this.order();
    const at = Math.max(
      0,
      rows.findIndex(row => row[RANK.rank] === this.state.chosen)
    );
    const moves: { [key: string]: number } = {
      ArrowUp: at - 1,
      ArrowDown: at + 1,
      PageUp: at - this.seen,
      PageDown: at + this.seen,
      Home: 0,
      End: rows.length - 1
    };
    if (event.key === "Enter" && rows.length) {
      this.open(rows[at][RANK.rank]);
    } else if (event.key in moves && rows.length) {
      const to = Math.max(0, Math.min(rows.length - 1, moves[event.key]));
      this.top = reveal(to, this.top, this.height(rows.length));
      this.setState({ chosen: rows[to][RANK.rank] });
      this.grid.current?.scrollTo({ top: this.top });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };

  private readonly grid = createRef<HTMLDivElement>();
  private readonly seen: number;
  private top = 0;
  private places: readonly number[] = [];
  private sortedBy = "";
  private sortedAt = 0;
}

function gpuOf(row: RankRow): string {
  const busy = row[RANK.gpu];
  const reserved = row[RANK.gpu_memory];
  const parts = [busy === null ? "" : `${Math.round(100 * busy)} %`, reserved ? size(reserved) : ""];
  return parts.filter(Boolean).join(" ") || NOTHING;
}

function memory(row: RankRow): string {
  const used = row[RANK.rss];
  if (!used) {
    return NOTHING;
  }
  const limit = row[RANK.limit];
  return limit ? `${size(used)} ${share(used, limit)}` : size(used);
}
