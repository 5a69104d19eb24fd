// Lengths and points of time in words, as the static panel writes them (notebook/words.py). Pure.

import type { TranslationBundle } from "@jupyterlab/translation";

import { type Maybe, NOTHING } from "./format";

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;

/** Where the reader is; left out, it is what the browser says. */
export interface IPlace {
  readonly locale?: string;
  readonly timeZone?: string;
}

/** Return a length of time in its two largest units: `3 min 12 s`, `2 h 05 min`. */
export function duration(trans: TranslationBundle, seconds: Maybe): string {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) {
    return "?";
  }
  if (seconds < 9.95) {
    return trans.__("%1 s", Math.max(0, seconds).toFixed(1));
  }
  const total = Math.round(seconds);
  if (total < MINUTE) {
    return trans.__("%1 s", total);
  }
  if (total < HOUR) {
    return trans.__("%1 min %2 s", Math.floor(total / MINUTE), two(total % MINUTE));
  }
  if (total < DAY) {
    const minutes = two(Math.floor(total / MINUTE) % 60);
    return trans.__("%1 h %2 min", Math.floor(total / HOUR), minutes);
  }
  return trans.__("%1 d %2 h", Math.floor(total / DAY), Math.floor(total / HOUR) % 24);
}

/** Return a short time with what counts of it: `4 ms`, `0.18 s`, `3 min 12 s`. */
export function short(trans: TranslationBundle, seconds: Maybe): string {
  if (typeof seconds !== "number" || !(seconds < 1)) {
    return duration(trans, seconds);
  }
  return seconds >= 0.0995
    ? trans.__("%1 s", seconds.toFixed(2))
    : trans.__("%1 ms", Math.max(0, 1000 * seconds).toFixed(0));
}

/** Return a length of time as one speaks of it: `12 min`, `5 h`, `3 days`. */
export function about(trans: TranslationBundle, seconds: Maybe): string {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) {
    return "?";
  }
  if (seconds < MINUTE) {
    return trans.__("< 1 min");
  }
  if (seconds < 100 * MINUTE) {
    return trans.__("%1 min", Math.round(seconds / MINUTE));
  }
  if (seconds < 36 * HOUR) {
    return trans.__("%1 h", Math.round(seconds / HOUR));
  }
  const days = Math.round(seconds / DAY);
  return trans._n("%1 day", "%1 days", days);
}

/** Return a time of day; with its date unless that is today. */
export function clock(at: Maybe, now: number, place: IPlace = {}): string {
  const then = date(at);
  if (then === null) {
    return NOTHING;
  }
  return isToday(then, now, place)
    ? written(then, "second", place)
    : `${written(then, "date", place)} ${written(then, "minute", place)}`;
}

/** Return a moment in full, for a title: date, time and time zone. */
export function stamp(at: Maybe, place: IPlace = {}): string {
  const then = date(at);
  return then === null ? NOTHING : written(then, "full", place);
}

/** Return an expected time: `14:25, in about 12 min`. */
export function ahead(
  trans: TranslationBundle,
  at: Maybe,
  now: number,
  place: IPlace = {}
): string {
  const then = date(at);
  if (then === null) {
    return NOTHING;
  }
  const seconds = then.getTime() / 1000 - now;
  if (seconds < MINUTE) {
    return seconds > 0 ? trans.__("in less than 1 min") : trans.__("any moment");
  }
  if (!(seconds < 366 * DAY)) {
    return trans.__("in more than a year");
  }
  const time = written(then, "minute", place);
  const shown = isToday(then, now, place) ? time : `${written(then, "weekday", place)} ${time}`;
  return trans.__("%1, in about %2", shown, about(trans, seconds));
}

type Style = "second" | "minute" | "date" | "weekday" | "full" | "day";

const STYLES: Readonly<Record<Style, Intl.DateTimeFormatOptions>> = {
  second: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  minute: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  date: { year: "numeric", month: "short", day: "numeric" },
  weekday: { weekday: "short", day: "2-digit", month: "short" },
  full: {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
    second: "2-digit", hourCycle: "h23", timeZoneName: "short"
  },
  day: { year: "numeric", month: "numeric", day: "numeric" }
};

// Making one takes longer than using it a hundred times.
const formats = new Map<string, Intl.DateTimeFormat>();

function written(then: Date, style: Style, place: IPlace): string {
  const key = `${style} ${place.locale ?? ""} ${place.timeZone ?? ""}`;
  let format = formats.get(key);
  if (format === undefined) {
    const options = { ...STYLES[style], timeZone: place.timeZone };
    format = new Intl.DateTimeFormat(place.locale, options);
    formats.set(key, format);
  }
  return format.format(then);
}

function isToday(then: Date, now: number, place: IPlace): boolean {
  const today = date(now);
  return today !== null && written(then, "day", place) === written(today, "day", place);
}

// Not a number, or out of the calendar: a view must never fail because of a clock.
function date(at: Maybe): Date | null {
  const then = typeof at === "number" ? new Date(1000 * at) : null;
  return then === null || Number.isNaN(then.getTime()) ? null : then;
}

function two(value: number): string {
  return String(value).padStart(2, "0");
}
