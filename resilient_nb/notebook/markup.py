"""HTML that is escaped unless it says otherwise, and the one style sheet of all panels.

There is no script. Colours come from JupyterLab's variables where there are any (both
themes, nbconvert's pages); elsewhere the page's own text colour is used, so that panels stay
legible on light and dark pages alike. Accents are mid-tones that stand out on both, and
never carry meaning alone. Notebooks that aren't trusted lose the style sheet and the
charts to the frontend's sanitiser: what is left reads as plain headings and tables.
"""

from __future__ import annotations

from html import escape

from resilient_nb.notebook.words import clean


class Markup(str):
    """HTML that is safe as it is. Any other string is escaped on its way in."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """Return an element. `class_` gives `class`, `stroke_width` gives `stroke-width`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(clean(value), quote=True)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{together(*children)}</{name}>")


def together(*children: str) -> Markup:
    """Return children one after the other, each escaped unless it is `Markup`."""
    return Markup("".join(c if isinstance(c, Markup) else escape(clean(c)) for c in children))


def page(*children: Markup) -> str:
    """Return a whole panel: the style sheet and a box of its own class."""
    return Markup(f"<style>{STYLE}</style>") + tag("div", *children, class_="rnb")


STYLE = """
.rnb{--rnb-run:#3b82f6;--rnb-good:#2da44e;--rnb-wait:#b7791f;--rnb-bad:#e5484d;--rnb-off:#868e96;
--rnb-line:var(--jp-border-color2,rgba(128,128,128,.35));--rnb-soft:rgba(128,128,128,.1);
color:var(--jp-ui-font-color1,inherit);font-family:var(--jp-ui-font-family,system-ui,sans-serif);
font-size:var(--jp-ui-font-size1,13px);line-height:1.5;border:1px solid var(--rnb-line);
border-radius:6px;padding:10px 14px;margin:2px 0;max-width:980px;box-sizing:border-box;
overflow-x:auto;font-variant-numeric:tabular-nums}
.rnb *{box-sizing:border-box}
.rnb .rnb-run{--rnb-tone:var(--rnb-run)}.rnb .rnb-good{--rnb-tone:var(--rnb-good)}
.rnb .rnb-wait{--rnb-tone:var(--rnb-wait)}.rnb .rnb-bad{--rnb-tone:var(--rnb-bad)}
.rnb .rnb-off{--rnb-tone:var(--rnb-off)}
.rnb .rnb-head{display:flex;flex-wrap:wrap;align-items:center;gap:4px 10px}
.rnb .rnb-name{font-size:1.2em;font-weight:600}
.rnb .rnb-quiet{opacity:.75}
.rnb .rnb-at{margin-left:auto}
.rnb .rnb-badge{border:1px solid var(--rnb-tone);border-radius:999px;padding:0 9px;font-weight:600;
white-space:nowrap}
.rnb .rnb-state{white-space:nowrap}
.rnb .rnb-badge::first-letter,.rnb .rnb-state::first-letter{color:var(--rnb-tone)}
.rnb .rnb-state{display:inline-block}.rnb .rnb-badge{display:inline-block}
.rnb .rnb-facts{margin-top:2px}
.rnb .rnb-note{border-left:3px solid var(--rnb-tone);background:var(--rnb-soft);
padding:4px 10px;margin:8px 0 0;border-radius:0 4px 4px 0}
.rnb .rnb-note p{margin:0}
.rnb .rnb-progress{display:flex;align-items:center;gap:12px;margin:8px 0 0}
.rnb progress{flex:1 1 200px;max-width:420px;height:8px;appearance:none;border:0;border-radius:4px;
overflow:hidden;background:var(--jp-layout-color3,rgba(128,128,128,.25))}
.rnb progress::-webkit-progress-bar{background:var(--jp-layout-color3,rgba(128,128,128,.25))}
.rnb progress::-webkit-progress-value{background:var(--rnb-tone);border-radius:4px}
.rnb progress::-moz-progress-bar{background:var(--rnb-tone);border-radius:4px}
.rnb .rnb-title{font-weight:600;margin:12px 0 2px}
.rnb .rnb-charts{display:flex;flex-wrap:wrap;gap:4px 20px;margin-top:10px}
.rnb figure{margin:0;flex:0 1 296px;min-width:220px}
.rnb figcaption{display:flex;justify-content:space-between;gap:8px;padding:0 10px 0 44px;margin:0;
color:inherit;font-size:inherit;text-align:left}
.rnb svg{display:block;width:100%;height:auto;color:inherit;overflow:visible}
.rnb svg text{fill:currentColor;opacity:.75;font-size:11px;font-family:inherit}
.rnb .rnb-table{border-collapse:collapse;border:0;margin:0;font-size:inherit;color:inherit;
table-layout:auto;width:auto}
.rnb .rnb-table thead{border-bottom:1px solid var(--rnb-line);vertical-align:baseline}
.rnb .rnb-table tr:nth-child(n),.rnb .rnb-table tbody tr:nth-child(n){background:none}
.rnb .rnb-table tbody tr:nth-child(n):hover{background:var(--rnb-soft)}
.rnb .rnb-table th,.rnb .rnb-table td{padding:2px 16px 2px 0;text-align:left;max-width:none;
vertical-align:baseline;border:0;line-height:1.5;color:inherit}
.rnb .rnb-table th{font-weight:400;opacity:.75;white-space:nowrap}
.rnb .rnb-table .rnb-right{text-align:right}
.rnb .rnb-table .rnb-tight{white-space:nowrap}
.rnb .rnb-table .rnb-tree{white-space:pre}
.rnb .rnb-table .rnb-below{padding-left:28px;opacity:.75}
.rnb .rnb-mono,.rnb pre{font-family:var(--jp-code-font-family,ui-monospace,monospace);
font-size:var(--jp-code-font-size,12px)}
.rnb pre{margin:4px 0 0;padding:6px 10px;background:var(--rnb-soft);color:inherit;border:0;
border-radius:4px;max-height:24em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;
line-height:1.4}
.rnb ul,.rnb ol{margin:0;padding-left:22px}
.rnb code{font-family:var(--jp-code-font-family,ui-monospace,monospace);color:inherit;
font-size:var(--jp-code-font-size,12px);background:var(--rnb-soft);padding:0 3px}
.rnb li{margin:0}
.rnb details{margin-top:4px}.rnb summary{cursor:pointer}
"""
