// One metric over steps, drawn by uPlot; and the same in words.

import { Component, createRef } from "preact";
import uPlot from "uplot";

import { figure, number, oneLine, whole } from "../format";
import type { IPanel } from "./context";
import { columns, latest, samples } from "./lines";
import type { Columns, ICurve } from "./lines";
import { DASHES, coloursAt, watchTheme } from "./theme";
import type { IColours } from "./theme";

const HEIGHT = 150;

export interface IPlotProps {
  readonly panel: IPanel;
  readonly metric: string;
  /** The job's own first. */
  readonly curves: readonly ICurve[];
  readonly logarithmic: boolean;
  /** Another number when points are new. */
  readonly version: number;
}

interface IPlotState {
  /** Index of the step that the cursor is at. */
  readonly at: number | null;
}

export class Plot extends Component<IPlotProps, IPlotState> {
  state: IPlotState = { at: null };

  componentDidMount(): void {
    const box = this.box.current;
    if (box === null) {
      return;
    }
    // Each in a task of its own: several plots at once would hold the page up.
    this.timer = window.setTimeout(() => {
      if (this.plot === null) {
        this.build(box, box.clientWidth);
      }
    });
    this.unwatch = watchTheme(() => {
      this.colours = coloursAt(box) ?? this.colours;
      this.plot?.redraw(false, true);
      this.colour();
    });
    if (typeof ResizeObserver !== "undefined") {
      this.sizes = new ResizeObserver(entries => this.fit(entries[0].contentRect.width));
      this.sizes.observe(box);
    }
  }

  shouldComponentUpdate(next: IPlotProps, state: IPlotState): boolean {
    const old = this.props;
    return (
      state !== this.state ||
      next.version !== old.version ||
      next.logarithmic !== old.logarithmic ||
      next.curves.length !== old.curves.length ||
      next.curves.some((curve, i) => curve.name !== old.curves[i].name)
    );
  }

  componentDidUpdate(old: IPlotProps): void {
    const { curves, logarithmic, version } = this.props;
    const box = this.box.current;
    if (box === null) {
      return;
    }
    if (logarithmic !== old.logarithmic || names(curves) !== names(old.curves)) {
      this.build(box, this.plot?.width ?? box.clientWidth);
    } else if (version !== old.version) {
      this.refresh();
    }
  }

  componentWillUnmount(): void {
    window.clearTimeout(this.timer);
    this.unwatch();
    this.sizes?.disconnect();
    this.plot?.destroy();
  }

  render() {
    const { panel, curves } = this.props;
    const { trans } = panel;
    const metric = oneLine(this.props.metric);
    const own = curves[0].points;
    const last = latest(own);
    const label =
      last === undefined
        ? trans.__("%1 over steps, no value yet", metric)
        : trans.__("%1 over steps, latest %2", metric, figure(trans, last));
    return (
      <figure class="rnb-Plot">
        <figcaption>
          <span class="rnb-Plot-name">{metric}</span>
          <span class="rnb-Plot-value">{this.said(last)}</span>
        </figcaption>
        <div
          ref={this.box}
          class="rnb-Plot-box"
          role="img"
          tabIndex={0}
          aria-label={label}
          title={trans.__(
            "Drag to zoom, double-click or Escape to see all. Arrow keys move the cursor."
          )}
          onKeyDown={this.onKeyDown}
          onDblClickCapture={this.whole}
          onBlur={this.leave}
        />
        <span class="rnb-hidden" role="status">
          {this.byKey ? this.said(last) : null}
        </span>
        <table class="rnb-hidden">
          <caption>{trans.__("Some values of %1", metric)}</caption>
          <tbody>
            {samples(own, 6).map(([step, value], i) => (
              <tr key={i}>
                <th scope="row">{trans.__("step %1", whole(step))}</th>
                <td>{figure(trans, value)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </figure>
    );
  }

  /** Values at the cursor; the latest one where there is none. */
  private said(last: number | null | undefined): string {
    const { curves, panel } = this.props;
    const data = this.data;
    const at = this.state.at;
    if (at === null || data === null || at >= data[0].length) {
      return last === undefined ? "" : figure(panel.trans, last);
    }
    const values = curves.map((curve, i) => {
      const value = (data[i + 1] as Columns[1])[at];
      const text = value === null || value === undefined ? "–" : number(value);
      return curves.length > 1 ? `${curve.name} ${text}` : text;
    });
    return `${panel.trans.__("step %1", whole(data[0][at]))}: ${values.join(" · ")}`;
  }

  private build(box: HTMLElement, width: number): void {
    this.plot?.destroy();
    this.colours ??= coloursAt(box);
    this.coloured = this.colours !== null;
    this.zoomed = false;
    this.data = columns(this.props.curves, this.props.logarithmic);
    this.plot = new uPlot(this.options(Math.max(120, width)), this.data as uPlot.AlignedData, box);
  }

  private options(width: number): uPlot.Options {
    const text = () => this.colours?.text ?? "";
    const grid = { stroke: () => this.colours?.grid ?? "", width: 1 };
    const axis: uPlot.Axis = {
      stroke: text,
      font: this.colours?.font,
      grid,
      ticks: { ...grid, size: 4 }
    };
    return {
      width,
      height: HEIGHT,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false, dist: 4 }, points: { size: 7 } },
      scales: {
        x: { time: false, auto: () => !this.zoomed },
        y: { distr: this.props.logarithmic ? 3 : 1 }
      },
      axes: [
        { ...axis, size: 26, values: (_, ticks) => ticks.map(whole) },
        { ...axis, size: 52, values: (_, ticks) => ticks.map(t => (t === null ? "" : number(t))) }
      ],
      series: [{}, ...this.props.curves.map((_, i) => this.line(i))],
      hooks: {
        setCursor: [u => this.setState({ at: u.cursor.idx ?? null })],
        setSelect: [u => (this.zoomed = this.zoomed || u.select.width > 0)]
      }
    };
  }

  private line(i: number): uPlot.Series {
    return {
      stroke: () => this.colours?.lines[i] ?? "",
      width: i === 0 ? 1.75 : 1.25,
      dash: DASHES[i] as number[],
      points: { show: () => (this.props.curves[i]?.points.steps.length ?? 0) < 3 }
    };
  }

  /** It was built before there were colours, or off the page: build it anew once there are. */
  private colour(): void {
    const box = this.box.current;
    if (this.plot !== null && !this.coloured && box !== null && coloursAt(box) !== null) {
      this.build(box, this.plot.width);
    }
  }

  /** Draw what is new. */
  private refresh(): void {
    if (this.plot === null) {
      return; // it is built with all there is
    }
    this.colour();
    this.data = columns(this.props.curves, this.props.logarithmic);
    this.plot.setData(this.data as uPlot.AlignedData);
  }

  private fit(width: number): void {
    if (this.plot && width > 0 && Math.abs(width - this.plot.width) >= 1) {
      this.plot.setSize({ width, height: HEIGHT });
    }
    this.colour();
  }

  private whole = () => {
    this.zoomed = false;
    this.plot?.setData(this.data as uPlot.AlignedData);
  };

  private leave = () => {
    this.byKey = false;
    this.plot?.setCursor({ left: -10, top: -10 });
  };

  private onKeyDown = (event: KeyboardEvent) => {
    const plot = this.plot;
    const steps = this.data?.[0];
    if (!plot || !steps?.length || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const at = this.state.at ?? steps.length - 1;
    const pace = event.shiftKey ? Math.max(1, Math.round(steps.length / 20)) : 1;
    const moves: { [key: string]: number } = {
      ArrowLeft: this.state.at === null ? at : at - pace,
      ArrowRight: this.state.at === null ? at : at + pace,
      Home: 0,
      End: steps.length - 1
    };
    if (event.key in moves) {
      const to = Math.max(0, Math.min(steps.length - 1, moves[event.key]));
      this.byKey = true;
      plot.setCursor({ left: plot.valToPos(steps[to], "x"), top: plot.height / 3 });
    } else if (event.key === "Escape" && (this.zoomed || this.state.at !== null)) {
      this.whole();
      this.leave();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };

  private readonly box = createRef<HTMLDivElement>();
  private plot: uPlot | null = null;
  private data: Columns | null = null;
  private colours: IColours | null = null;
  /** It was built with them. */
  private coloured = false;
  private sizes: ResizeObserver | null = null;
  private unwatch: () => void = () => undefined;
  private zoomed = false;
  private byKey = false;
  private timer = 0;
}

function names(curves: readonly ICurve[]): string {
  return curves.map(curve => curve.name).join("\n");
}
