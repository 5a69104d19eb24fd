// Text that was meant for a terminal, as pieces with a class. Pure; nothing of it is ever HTML.

import { clean } from "../format";

/** A piece of a line. `tone` is "" or the end of a class name. */
export interface IPiece {
  readonly text: string;
  readonly tone: string;
}

// Terminal sequences: CSI, OSC and the two-character ones.
const SEQUENCE = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?/g;

const COLOURS = ["", "red", "green", "yellow", "blue", "magenta", "cyan", ""];

/** Return a line in pieces, with its colours as tones; bold without a colour is `bold`. */
export function pieces(line: string): IPiece[] {
  const found: IPiece[] = [];
  let tone = "";
  let at = 0;
  const add = (end: number) => {
    const text = clean(line.slice(at, end));
    if (text) {
      found.push({ text, tone });
    }
  };
  for (const match of line.matchAll(SEQUENCE)) {
    add(match.index);
    at = match.index + match[0].length;
    if (match[2] === "m") {
      tone = toned(tone, match[1]);
    }
  }
  add(line.length);
  return found;
}

function toned(before: string, codes: string): string {
  let tone = before;
  for (const code of codes === "" ? [0] : codes.split(";").map(Number)) {
    if (code === 0 || code === 39) {
      tone = "";
    } else if (code === 1) {
      tone = tone || "bold";
    } else if (code >= 30 && code <= 37) {
      tone = COLOURS[code - 30];
    } else if (code >= 90 && code <= 97) {
      tone = COLOURS[code - 90];
    } else if (code === 38 || code === 48) {
      break; // a colour by number: what follows are its parts
    }
  }
  return tone;
}
