import * as format from "../format";
import { isFinal, sign } from "../states";
import * as times from "../times";
import { HOSTILE, trans } from "./builders";

const LONDON = { locale: "en-GB", timeZone: "UTC" };
// Thursday.
const NOON = Date.UTC(2026, 10, 26, 12, 0, 0) / 1000;

test.each([
  [0, "0"], [1, "1"], [-2.5, "-2.5"], [0.1234567, "0.1235"], [1234.4, "1234"], [12345.6, "1.235e+04"],
  [99999, "1e+05"], [9999.6, "1e+04"], [0.0001, "0.0001"], [0.00001234, "1.234e-05"], [1e300, "1e+300"], [100, "100"],
  [NaN, "-"], [null, "-"], [undefined, "-"], [Infinity, "-"]
])("the number %p is %p", (value, text) => {
  expect(format.number(value)).toBe(text);
});

test.each([
  [0, "0 B"], [999, "999 B"], [1000, "0.98 KiB"], [1.43 * 2 ** 30, "1.43 GiB"], [16 * 2 ** 40, "16.0 TiB"],
  [2 ** 60, "1024 PiB"], [null, "-"], [NaN, "-"]
])("the size %p is %p", (value, text) => {
  expect(format.size(value)).toBe(text);
});

test("a share says 100 only when all is done", () => {
  expect(format.share(499.9, 500)).toBe("99 %");
  expect(format.share(500, 500)).toBe("100 %");
  expect(format.share(1, 0)).toBe("100 %");
  expect(format.share(null, 500)).toBe("-");
});

test("progress says how far, as far as that is known", () => {
  expect(format.progress(trans, 120, 500)).toBe("step 120 of 500 (24 %)");
  expect(format.progress(trans, 12000, null)).toBe("step 12,000");
  expect(format.progress(trans, null, null)).toBe("step 0");
});

test("whole numbers have their thousands set off", () => {
  expect(format.whole(-0.4)).toBe("0");
  expect(format.whole(1234567.9)).toBe("1,234,567");
  expect(format.whole(null)).toBe("-");
});

test("rates, gangs and counts read as in the static panel", () => {
  expect(format.rate(trans, 12.345)).toBe("12.3 steps/s");
  expect(format.rate(trans, 0.25)).toBe("4.00 s/step");
  expect(format.rate(trans, 0)).toBe("");
  expect(format.rate(trans, NaN)).toBe("");
  expect(format.steps(trans, 1)).toBe("1 step");
  expect(format.steps(trans, 2000)).toBe("2,000 steps");
  expect(format.gang(trans, { workers: 4, max_workers: 0, held: 4 })).toBe("4");
  expect(format.gang(trans, { workers: 2, max_workers: 8, held: 0 })).toBe("2:8");
  expect(format.gang(trans, { workers: 2, max_workers: 8, held: 3 })).toBe("3 of 2:8");
  expect(format.reference("digits/00000060-e1")).toBe("digits@60");
  expect(format.reference("what")).toBe("what");
  expect(format.shortDigest("sha256:0123456789abcdef")).toBe("0123456789");
});

test.each([
  [0, "0.0 s"], [-3, "0.0 s"], [9.94, "9.9 s"], [9.96, "10 s"], [192, "3 min 12 s"],
  [7500, "2 h 05 min"], [3 * 86400 + 7200, "3 d 2 h"], [NaN, "?"], [null, "?"]
])("%p seconds are %p", (seconds, text) => {
  expect(times.duration(trans, seconds)).toBe(text);
});

test("short times and those one speaks of", () => {
  expect(times.short(trans, 0.004)).toBe("4 ms");
  expect(times.short(trans, 0.18)).toBe("0.18 s");
  expect(times.short(trans, NaN)).toBe("?");
  expect(times.about(trans, 30)).toBe("< 1 min");
  expect(times.about(trans, 720)).toBe("12 min");
  expect(times.about(trans, 5 * 3600)).toBe("5 h");
  expect(times.about(trans, 3 * 86400)).toBe("3 days");
  expect(times.about(trans, Infinity)).toBe("?");
});

test("a clock says the date unless that is today", () => {
  expect(times.clock(NOON + 65, NOON, LONDON)).toBe("12:01:05");
  expect(times.clock(NOON - 86400, NOON, LONDON)).toBe("25 Nov 2026 12:00");
  expect(times.clock(null, NOON, LONDON)).toBe("-");
  expect(times.clock(1e300, NOON, LONDON)).toBe("-");
  expect(times.stamp(NOON, LONDON)).toContain("26 Nov 2026");
});

test("what is ahead is said with how long that is", () => {
  expect(times.ahead(trans, NOON + 720, NOON, LONDON)).toBe("12:12, in about 12 min");
  expect(times.ahead(trans, NOON + 2 * 86400, NOON, LONDON)).toMatch(
    /^Sat,? 28 Nov 12:00, in about 2 days$/
  );
  expect(times.ahead(trans, NOON + 5, NOON, LONDON)).toBe("in less than 1 min");
  expect(times.ahead(trans, NOON - 5, NOON, LONDON)).toBe("any moment");
  expect(times.ahead(trans, 1e12, NOON, LONDON)).toBe("in more than a year");
  expect(times.ahead(trans, null, NOON, LONDON)).toBe("-");
});

test("a state is a symbol, a word and a tone, also if nobody knows it", () => {
  expect(sign(trans, "running")).toEqual({ symbol: "►", word: "running", tone: "run" });
  expect(sign(trans, "failed").tone).toBe("bad");
  expect(sign(trans, "odd\u202e").word).toBe("odd");
  expect(isFinal("cancelled")).toBe(true);
  expect(isFinal("stopping")).toBe(false);
});

test("texts of jobs lose what would move or turn other text, and nothing else", () => {
  expect(format.clean("a\x1b[31mred\x1b[0m\u202eb\tc\nd")).toBe("ared" + "b\tc\nd");
  expect(format.clean("10 %\r50 %\r100 %\ndone\r\n")).toBe("100 %\ndone\n");
  expect(format.clean("\x1b")).toBe("");
  expect(format.oneLine(HOSTILE)).toBe(
    "<img src=x onerror=alert(1)></script>%1 %% &amp; __proto__"
  );
  expect(format.clip("abcdef", 4)).toBe("abc…");
  expect(format.clip("😀😀😀", 3)).toBe("😀😀😀");
  expect(format.joined("a", "", null, "b")).toBe("a · b");
});
