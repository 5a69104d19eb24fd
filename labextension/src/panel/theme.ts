// JupyterLab's colours where CSS can't reach: on the canvas of a plot.

/** What a plot is drawn with. */
export interface IColours {
  readonly text: string;
  readonly grid: string;
  readonly font: string;
  /** Of the job's own curve, and of others. */
  readonly lines: readonly string[];
}

/** How each curve is dashed: nobody has to tell colours apart. */
export const DASHES: readonly (readonly number[])[] = [[], [7, 4], [2, 3], [10, 3, 2, 3]];

/** Return the colours as they are where an element is; null without a theme, or off the page. */
export function coloursAt(element: Element): IColours | null {
  // Else each would be the one that text has by default, or nothing at all.
  if (!getComputedStyle(element).getPropertyValue("--jp-border-color2").trim()) {
    return null;
  }
  // The value of a property is as it was written; only as a colour of something it is worked out.
  const probe = element.appendChild(document.createElement("i"));
  const read = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const colours = {
    text: read("--rnb-quiet"),
    grid: read("--rnb-rule"),
    font: `11px ${getComputedStyle(element).fontFamily}`,
    lines: DASHES.map((_, i) => read(`--rnb-line-${i}`))
  };
  probe.remove();
  return colours;
}

/** Call `changed` when the theme has become another one. Return what ends that. */
export function watchTheme(changed: () => void): () => void {
  const observer = new MutationObserver(() => requestAnimationFrame(changed));
  observer.observe(document.body, {
    attributeFilter: ["data-jp-theme-name", "data-jp-theme-light"]
  });
  return () => observer.disconnect();
}
