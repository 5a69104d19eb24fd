// The part of a rank's output that is kept to be shown: a window of whole lines. Pure.

import type { LogText } from "../protocol";

/** A line and the offset of its first byte, which names it. */
export interface ILine {
  readonly offset: number;
  readonly text: string;
}

/** Some lines that are drawn together. It is another one if one of them has changed. */
export type Block = readonly ILine[];

/** Lines from byte `begin` to byte `end` of `size` bytes. */
export interface IOutput {
  readonly epoch: number;
  readonly epochs: readonly number[];
  readonly blocks: readonly Block[];
  readonly begin: number;
  readonly end: number;
  readonly size: number;
}

/** Lines in a block, and blocks that are kept: 5,000 lines in all. */
export const BLOCK = 200;
export const MOST_BLOCKS = 25;

/** Of a line that never ends, such as a progress bar, the end is kept. */
const LONGEST = 65_536;

const BYTES = new TextEncoder();

/**
 * Return a piece as output.
 *
 * @param inside - it may begin within a line, which is left out then.
 */
export function opened(piece: LogText, inside = false): IOutput {
  const { epoch, epochs, size } = piece;
  const lines = inside ? wholeLines(piece) : split(piece);
  const begin = lines.length ? lines[0].offset : piece.offset;
  return bounded({ epoch, epochs, size, blocks: cut(lines), begin, end: piece.next });
}

/** Return the output with a piece put behind it. With one that doesn't join it begins afresh. */
export function appended(output: IOutput, piece: LogText): IOutput {
  const { epochs, size } = piece;
  if (piece.epoch !== output.epoch || piece.offset > output.end || piece.offset < output.begin) {
    return opened(piece);
  }
  const more = split(piece);
  if (more.length === 0) {
    return { ...output, epochs, size };
  }
  const blocks = output.blocks.slice();
  const open = (blocks.pop() ?? []).filter(line => line.offset < piece.offset);
  const last = open[open.length - 1];
  // The last line wasn't whole yet: what follows belongs to it.
  if (last !== undefined && piece.offset === output.end && !last.text.endsWith("\n")) {
    open.pop();
    more[0] = { offset: last.offset, text: (last.text + more[0].text).slice(-LONGEST) };
  }
  blocks.push(...cut(open.concat(more)));
  return bounded({ ...output, epochs, size, blocks, end: piece.next });
}

/** Return the output with an earlier piece put before it; what is too much goes from the end. */
export function prepended(output: IOutput, piece: LogText): IOutput {
  const lines = wholeLines(piece).filter(line => line.offset < output.begin);
  if (piece.epoch !== output.epoch || piece.next < output.begin || lines.length === 0) {
    return output;
  }
  const blocks = [...cut(lines), ...output.blocks].slice(0, MOST_BLOCKS);
  const last = blocks[blocks.length - 1];
  const dropped = last !== output.blocks[output.blocks.length - 1];
  const end = dropped ? after(last[last.length - 1]) : output.end;
  return { ...output, blocks, begin: lines[0].offset, end };
}

function bounded(output: IOutput): IOutput {
  if (output.blocks.length <= MOST_BLOCKS) {
    return output;
  }
  const blocks = output.blocks.slice(-MOST_BLOCKS);
  return { ...output, blocks, begin: blocks[0][0].offset };
}

function cut(lines: readonly ILine[]): Block[] {
  const blocks: Block[] = [];
  for (let at = 0; at < lines.length; at += BLOCK) {
    blocks.push(lines.slice(at, at + BLOCK));
  }
  return blocks;
}

function split(piece: LogText): ILine[] {
  const lines: ILine[] = [];
  let offset = piece.offset;
  for (let at = 0; at < piece.text.length;) {
    const next = piece.text.indexOf("\n", at);
    const end = next < 0 ? piece.text.length : next + 1;
    const line = { offset, text: piece.text.slice(at, end) };
    lines.push(line);
    offset = after(line);
    at = end;
  }
  return lines;
}

/** Return the lines; without the first one if that may have begun before, and there are others. */
function wholeLines(piece: LogText): ILine[] {
  const lines = split(piece);
  return piece.offset > 0 && lines.length > 1 ? lines.slice(1) : lines;
}

function after(line: ILine): number {
  return line.offset + BYTES.encode(line.text).length;
}
