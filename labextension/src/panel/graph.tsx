// The checkpoints of a run in a row, as a list that is walked with the keyboard.

import { Component, createRef } from "preact";

import { oneLine, whole } from "../format";
import type { INode, ITimeline } from "../lineage";
import type { IPanel } from "./context";

/** Width of a checkpoint and height of a lane in pixels; the rows of tags and steps around them. */
const WIDE = 18;
const HIGH = 18;
const TAGS = 16;
const STEPS = 16;

/** Digits that are typed within so many milliseconds are one number. */
const TYPING = 1000;

export interface IGraphProps {
  readonly panel: IPanel;
  readonly drawn: ITimeline;
  /** Column of the one that is chosen, and of the one it is compared with. */
  readonly chosen: number;
  readonly other: number | null;
  readonly onChoose: (column: number) => void;
  /** The keyboard goes on to what can be done with it. */
  readonly onEnter: () => void;
}

export class Graph extends Component<IGraphProps> {
  componentDidMount(): void {
    this.reveal();
  }

  shouldComponentUpdate(next: IGraphProps): boolean {
    const old = this.props;
    return next.drawn !== old.drawn || next.chosen !== old.chosen || next.other !== old.other;
  }

  componentDidUpdate(old: IGraphProps): void {
    if (
      old.chosen !== this.props.chosen ||
      old.drawn.nodes.length !== this.props.drawn.nodes.length
    ) {
      this.reveal();
    }
  }

  render() {
    const { panel, drawn, chosen } = this.props;
    const { trans, uid } = panel;
    const width = drawn.nodes.length * WIDE + WIDE;
    const above = tagRow(drawn);
    const height = above + drawn.lanes * HIGH + STEPS;
    return (
      <div
        ref={this.list}
        class="rnb-Graph"
        role="listbox"
        tabIndex={0}
        aria-label={trans.__("Checkpoints")}
        aria-orientation="horizontal"
        aria-activedescendant={chosen >= 0 ? `${uid}-at-${chosen}` : undefined}
        onKeyDown={this.onKeyDown}
        onClick={this.onClick}
      >
        <div
          class="rnb-Graph-all"
          role="presentation"
          style={{ width: `${width}px`, height: `${height}px` }}
        >
          <svg width={width} height={height} aria-hidden="true">
            <path class="rnb-Graph-side" d={path(drawn, above, false)} />
            <path class="rnb-Graph-line" d={path(drawn, above, true)} />
          </svg>
          {drawn.nodes.map(node => this.option(node, above))}
          <div class="rnb-Graph-labels" aria-hidden="true">
            {this.tags()}
            {this.steps()}
          </div>
        </div>
      </div>
    );
  }

  private option(node: INode, above: number) {
    const chosen = node.column === this.props.chosen;
    const other = node.column === this.props.other;
    const name = named(this.props.panel, node);
    const kind = node.isHead ? " rnb-mod-head" : node.onLine ? "" : " rnb-mod-side";
    const fork = node.forks.length ? " rnb-mod-fork" : "";
    return (
      <div
        key={node.checkpoint.id}
        id={`${this.props.panel.uid}-at-${node.column}`}
        data-column={node.column}
        role="option"
        aria-selected={chosen}
        aria-label={name}
        title={name}
        class={`rnb-Graph-point${kind}${fork}${other ? " rnb-mod-other" : ""}`}
        style={{ left: `${node.column * WIDE}px`, top: `${above + node.lane * HIGH}px` }}
      />
    );
  }

  /** Names of tags, each as far as the next one leaves it room. */
  private tags() {
    const tagged = this.props.drawn.nodes.filter(node => node.checkpoint.tags.length > 0);
    return tagged.map((node, i) => {
      const room = (tagged[i + 1]?.column ?? node.column + 10) - node.column;
      return (
        <span
          key={node.checkpoint.id}
          class="rnb-Graph-tag"
          style={{ left: `${node.column * WIDE + 4}px`, maxWidth: `${room * WIDE - 4}px` }}
        >
          {node.checkpoint.tags.map(oneLine).join(", ")}
        </span>
      );
    });
  }

  /** Steps below, as often as there is room for them. */
  private steps() {
    const { nodes, lanes } = this.props.drawn;
    const widest = Math.max(...nodes.map(node => whole(node.checkpoint.step).length), 1);
    const every = Math.max(2, Math.ceil((widest * 7 + 10) / WIDE));
    const top = `${tagRow(this.props.drawn) + lanes * HIGH}px`;
    return nodes
      .filter(node => (nodes.length - 1 - node.column) % every === 0)
      .map(node => (
        <span
          key={node.checkpoint.id}
          class="rnb-Graph-step"
          style={{ top, left: `${node.column * WIDE + WIDE / 2}px` }}
        >
          {whole(node.checkpoint.step)}
        </span>
      ));
  }

  /** Scroll to the chosen one. All sizes are known, so nothing is measured but what can be seen. */
  private reveal(): void {
    const list = this.list.current;
    if (list === null || this.props.chosen < 0) {
      return;
    }
    const left = this.props.chosen * WIDE;
    if (left < list.scrollLeft) {
      list.scrollLeft = left - WIDE;
    } else if (left + 2 * WIDE > list.scrollLeft + list.clientWidth) {
      list.scrollLeft = left + 2 * WIDE - list.clientWidth;
    }
  }

  private onClick = (event: MouseEvent) => {
    const point = (event.target as Element).closest<HTMLElement>("[data-column]");
    if (point !== null) {
      this.props.onChoose(Number(point.dataset["column"]));
    }
  };

  private onKeyDown = (event: KeyboardEvent) => {
    const { drawn, chosen, onChoose, onEnter } = this.props;
    if (event.ctrlKey || event.metaKey || event.altKey || drawn.nodes.length === 0) {
      return;
    }
    const digit = /^[0-9]$/.test(event.key);
    const to = digit ? this.typed(event.key) : moved(drawn, chosen, event.key);
    if (to !== null) {
      onChoose(to);
    } else if (event.key === "Enter") {
      onEnter();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };

  private typed(digit: string): number {
    const now = performance.now();
    this.digits = now - this.typedAt < TYPING ? this.digits + digit : digit;
    this.typedAt = now;
    return nearest(this.props.drawn, Number(this.digits));
  }

  private readonly list = createRef<HTMLDivElement>();
  private digits = "";
  private typedAt = -Infinity;
}

/** Return the column that a key leads to; null if it is no such key. */
export function moved(drawn: ITimeline, from: number, key: string): number | null {
  const last = drawn.nodes.length - 1;
  const bounded = (column: number) => Math.max(0, Math.min(last, column));
  switch (key) {
    case "ArrowLeft":
      return bounded(from - 1);
    case "ArrowRight":
      return bounded(from + 1);
    case "PageUp":
      return bounded(from - 10);
    case "PageDown":
      return bounded(from + 10);
    case "Home":
      return 0;
    case "End":
      return last;
    case "ArrowUp":
    case "ArrowDown":
      return beside(drawn, from, key === "ArrowUp" ? -1 : 1);
    default:
      return null;
  }
}

/** Return the checkpoint in the next lane that is nearest by time; `from` if there is no lane. */
function beside(drawn: ITimeline, from: number, by: number): number {
  const lane = (drawn.nodes[from]?.lane ?? 0) + by;
  let found = from;
  for (const node of drawn.nodes) {
    const nearer = found === from || Math.abs(node.column - from) < Math.abs(found - from);
    if (node.lane === lane && nearer) {
      found = node.column;
    }
  }
  return found;
}

/** Return the column of the step that is nearest to a number; of several the one on the line. */
export function nearest(drawn: ITimeline, step: number): number {
  let found = 0;
  let least = Infinity;
  for (const node of drawn.nodes) {
    // Half a step less for those that lead to the head.
    const far = Math.abs(node.checkpoint.step - step) - (node.onLine ? 0.5 : 0);
    if (far <= least) {
      found = node.column;
      least = far;
    }
  }
  return found;
}

/** Return what a checkpoint is called: its step, and all that its mark shows. */
function named({ trans }: IPanel, node: INode): string {
  return [
    trans.__("step %1", whole(node.checkpoint.step)),
    node.isHead ? trans.__("head") : "",
    ...node.checkpoint.tags.map(oneLine),
    node.onLine ? "" : trans.__("left by a rollback"),
    ...node.forks.map(fork => trans.__("%1 was forked here", oneLine(fork)))
  ]
    .filter(Boolean)
    .join(", ");
}

/** Return how much room names of tags need. */
function tagRow({ nodes }: ITimeline): number {
  return nodes.some(node => node.checkpoint.tags.length > 0) ? TAGS : 2;
}

/** Return the lines that lead to the head, or all others, as one path. */
function path(drawn: ITimeline, above: number, onLine: boolean): string {
  const x = (node: INode) => node.column * WIDE + WIDE / 2;
  const y = (node: INode) => above + node.lane * HIGH + HIGH / 2;
  const parts: string[] = [];
  for (const node of drawn.nodes) {
    const parent = node.parent === null ? null : drawn.nodes[node.parent];
    if (parent === null || node.onLine !== onLine) {
      continue;
    }
    // To another lane it leaves at once, and then goes along.
    const bend = y(parent) === y(node) ? "" : `L${x(parent) + WIDE / 2} ${y(node)}`;
    parts.push(`M${x(parent)} ${y(parent)}${bend}L${x(node)} ${y(node)}`);
  }
  return parts.join("");
}
