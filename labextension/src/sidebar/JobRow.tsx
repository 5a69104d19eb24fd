// One job in the sidebar's list.

import type { TranslationBundle } from "@jupyterlab/translation";

import { oneLine } from "../format";
import { memo } from "../panel/memo";
import type { BoardRow } from "../protocol";
import { sign } from "../states";
import { progress } from "./filter";
import { line } from "./words";

/** Height of a row in pixels, as in sidebar.css. */
export const ROW = 50;

export interface IJobRowProps {
  readonly id: string;
  readonly row: BoardRow;
  readonly index: number;
  readonly count: number;
  readonly selected: boolean;
  /** The scheduler's time, for rows that say how long something will take; else 0. */
  readonly now: number;
  readonly trans: TranslationBundle;
  onSelect(job: string): void;
  onOpen(job: string): void;
  onCell(row: BoardRow): void;
}

// What is inside an option is not reached by screen readers or Tab: the link to the cell is for
// the mouse; keys have the buttons below the list and the context menu.
export const JobRow = memo<IJobRowProps>(props => {
  const { row, trans, onSelect, onOpen, onCell } = props;
  const { symbol, word, tone } = sign(trans, row.state);
  const text = line(trans, row, props.now);
  const done = row.state === "running" || row.state === "stopping" ? progress(row) : null;
  return (
    <div
      id={props.id}
      class="rnb-JobRow"
      role="option"
      aria-selected={props.selected}
      aria-label={trans.__("%1, %2", row.id, word)}
      aria-description={text}
      aria-setsize={props.count}
      aria-posinset={props.index + 1}
      data-job={row.id}
      data-state={row.state}
      data-tone={tone}
      style={{ transform: `translateY(${props.index * ROW}px)` }}
      title={`${oneLine(row.id)}\n${word} · ${text}`}
      onMouseDown={() => onSelect(row.id)}
      onContextMenu={() => onSelect(row.id)}
      onDblClick={() => onOpen(row.id)}
    >
      <div class="rnb-JobRow-head">
        <span class="rnb-JobRow-symbol">{symbol}</span>
        <span class="rnb-JobRow-name">{row.id}</span>
        {row.alerts > 0 && (
          <span class="rnb-JobRow-alerts">▲ {trans._n("%1 alert", "%1 alerts", row.alerts)}</span>
        )}
        {row.cell_id && (
          <span
            class="rnb-JobRow-cell"
            title={trans.__("Go to the cell that has submitted it")}
            onClick={() => onCell(row)}
          >
            {trans.__("Cell")}
          </span>
        )}
        <span class="rnb-JobRow-state">{word}</span>
      </div>
      <div class="rnb-JobRow-line">{text}</div>
      {done !== null && (
        <div class="rnb-JobRow-progress">
          <div style={{ width: `${100 * done}%` }} />
        </div>
      )}
    </div>
  );
});
