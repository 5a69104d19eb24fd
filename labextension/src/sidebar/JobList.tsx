// The list of jobs: only the rows that can be seen are in the page, however many there are.

import type { TranslationBundle } from "@jupyterlab/translation";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { reveal, span } from "../panel/window";
import type { BoardRow } from "../protocol";
import { JobRow, ROW } from "./JobRow";

export interface IJobListProps {
  readonly rows: readonly BoardRow[];
  readonly selected: string | null;
  readonly now: number;
  readonly trans: TranslationBundle;
  onSelect(job: string): void;
  onOpen(job: string): void;
  onCell(row: BoardRow): void;
}

export function JobList(props: IJobListProps) {
  const { rows, selected, now, trans, onSelect, onOpen, onCell } = props;
  const { box, top, height, onScroll } = useWindow();
  const at = rows.findIndex(row => row.id === selected);

  // A job that is selected by key is scrolled to; one that moves in the list by itself isn't.
  const select = (index: number) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, index))];
    if (row && box.current) {
      onSelect(row.id);
      box.current.scrollTop = reveal(rows.indexOf(row), box.current.scrollTop, height, ROW);
    }
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const row = rows[at];
    const target = moved(event.key, at, rows.length, Math.max(1, Math.floor(height / ROW) - 1));
    if (target !== null) {
      select(target);
    } else if (event.key === "Enter" && row) {
      onOpen(row.id);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };

  const { first, end } = span(top, height, rows.length, ROW);
  // The selected row stays in the page, so that screen readers find it.
  const drawn = rows.slice(first, end).map((row, i) => ({ row, index: first + i }));
  const chosen = rows[at];
  if (chosen && (at < first || at >= end)) {
    drawn.push({ row: chosen, index: at });
  }
  return (
    <div
      ref={box}
      class="rnb-JobList"
      role="listbox"
      tabIndex={0}
      aria-label={trans.__("Jobs")}
      aria-activedescendant={chosen ? optionId(chosen.id) : undefined}
      data-job={chosen?.id}
      onScroll={onScroll}
      onKeyDown={onKeyDown}
      onFocus={() => at < 0 && rows[0] && onSelect(rows[0].id)}
    >
      <div class="rnb-JobList-all" role="presentation" style={{ height: `${rows.length * ROW}px` }}>
        {drawn.map(({ row, index }) => (
          <JobRow
            key={row.id}
            id={optionId(row.id)}
            row={row}
            index={index}
            count={rows.length}
            selected={row.id === selected}
            now={row.state === "queued" ? now : 0}
            trans={trans}
            onSelect={onSelect}
            onOpen={onOpen}
            onCell={onCell}
          />
        ))}
      </div>
    </div>
  );
}

/** Return the index that a key goes to from another one; null if it is no such key. */
export function moved(key: string, at: number, count: number, page: number): number | null {
  if (count === 0) {
    return null;
  }
  const steps: Readonly<Record<string, number>> = {
    ArrowDown: 1,
    ArrowUp: -1,
    PageDown: page,
    PageUp: -page,
    Home: -count,
    End: count
  };
  const step = steps[key];
  return step === undefined ? null : Math.max(0, Math.min(count - 1, at + step));
}

function optionId(job: string): string {
  return `resilient-nb-row-${job}`;
}

/** Follow what part of a box can be seen. */
function useWindow() {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(400);
  useLayoutEffect(() => {
    const node = box.current;
    if (!node) {
      return;
    }
    const observer = new ResizeObserver(() => setHeight(node.clientHeight));
    observer.observe(node);
    return () => observer.disconnect();
  }, []);
  return { box, top, height, onScroll: () => setTop(box.current?.scrollTop ?? 0) };
}
