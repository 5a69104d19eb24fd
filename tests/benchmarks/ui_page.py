"""What is measured in the browser: its main thread, and when something came to be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page

PATIENCE = 60_000

#: Collects tasks of the main thread that took longer than 50 ms.
_LONG_TASKS = """
window.rnbLong = [];
new PerformanceObserver(list => {
  for (const each of list.getEntries()) window.rnbLong.push(each.duration);
}).observe({type: "longtask"});
"""

#: Notes when a job was first listed, after the frame that showed it.
_WATCH_LIST = """
window.rnbSeen = {};
const look = () => {
  for (const each of document.querySelectorAll("[role=listbox][aria-label=Jobs] [role=option]")) {
    const job = (each.getAttribute("aria-label") ?? each.textContent).split(",")[0];
    if (!(job in window.rnbSeen)) {
      window.rnbSeen[job] = 0;
      requestAnimationFrame(() => { window.rnbSeen[job] = Date.now() / 1000; });
    }
  }
};
new MutationObserver(look).observe(document.body, {childList: true, subtree: true,
  attributes: true, attributeFilter: ["aria-label"]});
look();
"""

#: In every page that is loaded: when a panel first showed a later step than `rnb-step`.
_WATCH_STEPS = """
new MutationObserver((_, observer) => {
  const before = Number(localStorage.getItem("rnb-step") ?? Infinity);
  for (const each of document.querySelectorAll("[data-rnb=steps]")) {
    const found = /step ([\\d,]+)/.exec(each.textContent);
    if (found && Number(found[1].replaceAll(",", "")) > before) {
      observer.disconnect();
      requestAnimationFrame(() => { window.rnbLive = performance.now() / 1000; });
      return;
    }
  }
}).observe(document, {childList: true, subtree: true, characterData: true});
"""

#: Opens a job from the list; returns seconds until its page has all that a reader looks at first.
_OPEN = """async job => {
  const rows = [...document.querySelectorAll("[role=listbox][aria-label=Jobs] [role=option]")];
  const row = rows.find(r => (r.getAttribute("aria-label") ?? r.textContent).startsWith(job + ","));
  const began = performance.now();
  row.dispatchEvent(new MouseEvent("dblclick", {bubbles: true}));
  const whole = () => {
    const region = [...document.querySelectorAll("#jp-main-dock-panel [role=region]")]
      .find(each => each.getAttribute("aria-label") === "Job " + job);
    if (!region) return false;
    const has = name => region.querySelector(name);
    return has("[data-rnb=state]")?.textContent && has("[data-rnb=steps]")?.textContent
      && has("[role=listbox][aria-label=Checkpoints] [role=option]")
      && has("[role=img] canvas, [role=img] svg, canvas")
      && /loss/.test(has("[role=log]")?.textContent ?? "");
  };
  while (!whole()) {
    if (performance.now() - began > 30000) throw new Error("The page of " + job + " isn't whole.");
    await new Promise(requestAnimationFrame);
  }
  await new Promise(requestAnimationFrame);
  return (performance.now() - began) / 1000;
}"""


@dataclass(frozen=True)
class Spent:
    """What the main thread did: seconds in tasks, seconds of CPU, and the longest task in ms."""

    tasks: float
    cpu: float
    longest: float


class Probe:
    """Measures one page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._devtools = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable")
        page.evaluate(_LONG_TASKS)

    def begin(self) -> None:
        """Measure from now on."""
        self._page.evaluate("window.rnbLong.length = 0")
        self._before = self._metrics()

    def end(self) -> Spent:
        """Return what was spent since then."""
        before, after = self._before, self._metrics()
        longest = self._page.evaluate("Math.max(0, ...window.rnbLong)")
        return Spent(
            after["TaskDuration"] - before["TaskDuration"],
            after["ThreadTime"] - before["ThreadTime"],
            longest,
        )

    def _metrics(self) -> dict[str, float]:
        found: Any = self._devtools.send("Performance.getMetrics")
        return {each["name"]: each["value"] for each in found["metrics"]}


def watch_list(page: Page) -> None:
    """Note from now on when jobs are listed."""
    page.evaluate(f"(() => {{{_WATCH_LIST}}})()")


def listed_at(page: Page, job: str) -> float:
    """Wait until a job was listed; return when, in seconds since 1970."""
    page.wait_for_function("job => window.rnbSeen[job] > 0", arg=job, timeout=PATIENCE)
    return float(page.evaluate("job => window.rnbSeen[job]", job))


def watch_steps(page: Page) -> None:
    """Note in every page that is loaded later when a panel moved on."""
    page.add_init_script(_WATCH_STEPS)


def reload_live(page: Page, step: int) -> float:
    """Load the page anew; return seconds until a panel shows a later step than this one."""
    page.evaluate("step => localStorage.setItem('rnb-step', step)", step)
    page.reload(wait_until="commit")
    page.wait_for_function("window.rnbLive > 0", timeout=PATIENCE)
    return float(page.evaluate("window.rnbLive"))


def open_job(page: Page, job: str) -> float:
    """Open a job from the list; return seconds until its page is whole."""
    return float(page.evaluate(_OPEN, job))
