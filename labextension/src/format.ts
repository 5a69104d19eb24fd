// Numbers, times and states in words, as the static panel writes them (notebook/words.py). Pure.
//
// What a view shows of a job's own text goes through `clean` or `oneLine`: a text node can't become
// markup, but it could still turn the direction of the text around it.

import type { TranslationBundle } from "@jupyterlab/translation";

/** A value that may not be known, or was no finite number where it came from. */
export type Maybe = number | null | undefined;

/** What is shown where there is nothing to show. */
export const NOTHING = "-";

const GROUPED = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const SEQUENCES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[^])?/g;
const CONTROLS =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

// --- texts ------------------------------------------------------------------------------------

/** Return text without terminal sequences, control and direction characters. */
export function clean(text: string): string {
  let plain = text.replace(SEQUENCES, "").replace(/\r\n/g, "\n");
  if (plain.includes("\r")) {
    plain = plain.split("\n").map(lastWriting).join("\n");
  }
  return plain.replace(CONTROLS, "");
}

/** Of a line that was overwritten, such as a progress bar, return what was written last. */
export function lastWriting(line: string): string {
  if (!line.includes("\r")) {
    return line;
  }
  const parts = line.split("\r").filter(Boolean);
  return parts[parts.length - 1] ?? "";
}

/** Return text cleaned and on one line. */
export function oneLine(text: string): string {
  return clean(text).split(/\s+/).filter(Boolean).join(" ");
}

/** Return at most `width` characters; … shows that there was more. */
export function clip(text: string, width: number): string {
  const characters = Array.from(text);
  return characters.length <= width
    ? text
    : characters.slice(0, Math.max(0, width - 1)).join("") + "…";
}

/** Return the parts that aren't empty, with dots between. */
export function joined(...parts: (string | null | undefined)[]): string {
  return parts.filter(Boolean).join(" · ");
}

/** Return enough of a digest to tell two checkpoints apart. */
export function shortDigest(digest: string): string {
  const plain = clean(digest);
  return plain.slice(plain.lastIndexOf(":") + 1).slice(0, 10);
}

/** Return a checkpoint's identity (`digits/00000060-e1`) as people type it (`digits@60`). */
export function reference(identity: string): string {
  const found = /^([^/]*)\/(\d+)(?:-|$)/.exec(identity);
  return found === null ? identity : `${found[1]}@${Number(found[2])}`;
}

// --- numbers ----------------------------------------------------------------------------------

/** Return a metric's value with four digits, as Python's `:.4g` writes it. */
export function number(value: Maybe): string {
  if (!finite(value)) {
    return NOTHING;
  }
  if (value === 0) {
    return "0";
  }
  const [mantissa, power] = value.toExponential(3).split("e") as [string, string];
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 4) {
    const digits = String(Math.abs(exponent)).padStart(2, "0");
    return `${trimmed(mantissa)}e${exponent < 0 ? "-" : "+"}${digits}`;
  }
  return trimmed(value.toFixed(3 - exponent));
}

/** Return a metric's value, also one that is no number: `0.25`, `no number`. */
export function figure(trans: TranslationBundle, value: Maybe): string {
  return value === null ? trans.__("no number") : number(value);
}

/** Return a whole number with its thousands set off: `12,000`. */
export function whole(value: Maybe): string {
  return finite(value) ? GROUPED.format(Math.trunc(value) + 0) : NOTHING;
}

/** Return a number of bytes with three digits: `1.43 GiB`. */
export function size(bytes: Maybe): string {
  if (!finite(bytes)) {
    return NOTHING;
  }
  if (Math.abs(bytes) < 1000) {
    return `${Math.trunc(bytes)} B`;
  }
  let left = bytes;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    left /= 1024;
    if (Math.abs(left) < 999.5) {
      return `${three(left)} ${unit}`;
    }
  }
  return `${three(left / 1024)} PiB`;
}

/** Return a percentage that says 100 only when all is done. */
export function share(part: Maybe, of: Maybe): string {
  if (!finite(part) || !finite(of)) {
    return NOTHING;
  }
  const percent = of > 0 ? (100 * part) / of : 0;
  return `${part < of ? Math.min(99, Math.trunc(percent)) : 100} %`;
}

/** Return a speed: steps per second, or seconds per step if that is the larger number. */
export function rate(trans: TranslationBundle, stepsPerSecond: Maybe): string {
  if (!finite(stepsPerSecond) || stepsPerSecond <= 0) {
    return "";
  }
  return stepsPerSecond >= 1
    ? trans.__("%1 steps/s", three(stepsPerSecond))
    : trans.__("%1 s/step", three(1 / stepsPerSecond));
}

/** Return `1 step`, `2,000 steps`. */
export function steps(trans: TranslationBundle, count: number): string {
  return trans._n("%2 step", "%2 steps", count, whole(count));
}

/** Return how far a job is: `step 120 of 500 (24 %)`. */
export function progress(trans: TranslationBundle, step: Maybe, total: Maybe): string {
  return finite(total)
    ? trans.__("step %1 of %2 (%3)", whole(step ?? 0), whole(total), share(step ?? 0, total))
    : trans.__("step %1", whole(step ?? 0));
}

/** Return a gang's size: `4`; of an elastic one `2:8`, or `3 of 2:8` while it holds 3. */
export function gang(
  trans: TranslationBundle,
  job: { readonly workers: number; readonly max_workers: number; readonly held: number }
): string {
  if (job.max_workers <= job.workers) {
    return String(job.workers);
  }
  const range = `${job.workers}:${job.max_workers}`;
  return job.held ? trans.__("%1 of %2", job.held, range) : range;
}

function finite(value: Maybe): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function trimmed(digits: string): string {
  return digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
}

function three(value: number): string {
  const amount = Math.abs(value);
  return value.toFixed(amount >= 99.95 ? 0 : amount >= 9.995 ? 1 : 2);
}
