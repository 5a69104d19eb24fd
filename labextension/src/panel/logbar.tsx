// What stands above a rank's output: of which rank and attempt it is, a search, whether it follows.

import { useMemo } from "preact/hooks";

import { size } from "../format";
import type { LogMatch } from "../protocol";
import type { IPanel } from "./context";
import { memo } from "./memo";
import type { IOutput } from "./output";
import { Search } from "./search";

export interface ILogBarProps {
  readonly panel: IPanel;
  readonly rank: number;
  readonly world: number;
  /** The attempt that is wanted; undefined for the newest. */
  readonly epoch: number | undefined;
  /** What is shown, or was before. */
  readonly known: IOutput | null;
  readonly follow: boolean;
  readonly onRank: (rank: number) => void;
  readonly onEpoch: (epoch: number) => void;
  readonly onMatch: (match: LogMatch | null) => void;
  readonly onFollow: (follow: boolean) => void;
}

export function LogBar(props: ILogBarProps) {
  const { panel, rank, world, epoch, known, follow, onRank, onEpoch, onMatch, onFollow } = props;
  const { trans } = panel;
  const count = Math.max(1, world, rank + 1);
  const ranks = useMemo(() => Array.from({ length: count }, (_, i) => i), [count]);
  return (
    <div class="rnb-Bar">
      <Choice name={trans.__("Rank")} from={ranks} value={rank} choose={onRank} />
      {known !== null && known.epochs.length > 1 ? (
        <Choice
          name={trans.__("Attempt")}
          from={known.epochs}
          value={epoch ?? known.epoch}
          choose={onEpoch}
        />
      ) : null}
      <Search panel={panel} rank={rank} epoch={epoch} onMatch={onMatch} />
      <label class="rnb-Check">
        <input
          type="checkbox"
          checked={follow}
          onChange={e => onFollow(e.currentTarget.checked)}
        />
        {trans.__("Follow")}
      </label>
      <span class="rnb-quiet">{known === null ? "" : size(known.size)}</span>
    </div>
  );
}

interface IChoiceProps {
  readonly name: string;
  readonly from: readonly number[];
  readonly value: number;
  readonly choose: (value: number) => void;
}

const Choice = ({ name, from, value, choose }: IChoiceProps) => (
  <label>
    {name}{" "}
    <select value={String(value)} onChange={e => choose(Number(e.currentTarget.value))}>
      <Options from={from} />
    </select>
  </label>
);

/** There may be a thousand of them. */
const Options = memo<{ from: readonly number[] }>(({ from }) => (
  <>
    {from.map(number => (
      <option key={number} value={String(number)}>
        {String(number)}
      </option>
    ))}
  </>
));
