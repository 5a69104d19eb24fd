// Lists of short texts: notes, inputs and reads, what was broken on purpose.

import { oneLine } from "../format";
import type { IPanel } from "./context";
import { memo } from "./memo";

/** So many are shown; the others are a click away. */
const MOST = 8;

export interface IItemsProps {
  readonly panel: IPanel;
  readonly title: string;
  /** The newest last. */
  readonly items: readonly string[];
}

/** Texts with a heading, the newest last; earlier ones are folded. */
export function Items({ panel, title, items }: IItemsProps) {
  if (items.length === 0) {
    return null;
  }
  const earlier = items.slice(0, -MOST);
  return (
    <div class="rnb-Items">
      <h4>{title}</h4>
      {earlier.length ? (
        <details>
          <summary>{panel.trans._n("%1 earlier", "%1 earlier", earlier.length)}</summary>
          <Texts items={earlier.slice(-200)} />
        </details>
      ) : null}
      <Texts items={items.slice(-MOST)} />
    </div>
  );
}

const Texts = ({ items }: { items: readonly string[] }) => (
  <ul>
    {items.map((item, i) => (
      <li key={i}>{oneLine(item)}</li>
    ))}
  </ul>
);

export interface INotesProps {
  readonly panel: IPanel;
  /** Other numbers when something of it is new. */
  readonly notes: number;
  readonly facts: number;
}

/** What the runtime noted, what the cell reads and gets, and what it has returned. */
export const Notes = memo<INotesProps>(({ panel }) => {
  const { model, trans } = panel;
  const reads = Object.entries(model.head?.reads ?? {}).map(([name, place]) => `${name}: ${place}`);
  return (
    <>
      <Items panel={panel} title={trans.__("Reads")} items={reads} />
      <Items
        panel={panel}
        title={trans.__("Gets from other jobs")}
        items={model.head?.inputs ?? []}
      />
      <Items panel={panel} title={trans.__("Returned")} items={model.head?.returned ?? []} />
      <Items panel={panel} title={trans.__("Notes")} items={model.notes} />
    </>
  );
});
