// Some lines of output, as text and nothing else.

import { clip, lastWriting, whole } from "../format";
import { pieces } from "./ansi";
import { memo } from "./memo";
import type { Block } from "./output";

/** Height of a line in pixels. Lines don't wrap, so a block that isn't seen needs no layout. */
const LINE = 17;

/** A longer line is cut: a browser is slow with lines of megabytes. */
const LONGEST = 4000;

export interface ILinesProps {
  readonly block: Block;
  /** Offset of the line that was searched for. */
  readonly marked: number;
}

/** Lines with their terminal's colours. */
export const Lines = memo<ILinesProps>(({ block, marked }) => (
  <div class="rnb-Lines" style={{ containIntrinsicHeight: `${block.length * LINE}px` }}>
    {block.map(({ offset, text }) => (
      <div key={offset} class={offset === marked ? "rnb-mod-match" : undefined}>
        {shown(text).map(({ text, tone }) =>
          tone ? <span class={`rnb-ansi-${tone}`}>{text}</span> : text
        )}
        {"\n"}
      </div>
    ))}
  </div>
));

function shown(line: string) {
  const end = line.endsWith("\r\n") ? -2 : line.endsWith("\n") ? -1 : line.length;
  const text = lastWriting(line.slice(0, end));
  if (text.length <= LONGEST) {
    return pieces(text);
  }
  return [...pieces(clip(text, LONGEST)), { text: ` (${whole(text.length)})`, tone: "" }];
}
