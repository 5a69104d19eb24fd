// Draws the MIME type that a submitted cell leaves in its notebook: a panel that is live.

import type { IRenderMime } from "@jupyterlab/rendermime";
import { Panel, Widget } from "@lumino/widgets";

import { oneLine } from "./format";
import type { JobView } from "./protocol";
import type { ISaved } from "./tokens";

/** As in resilient_nb/notebook/saved.py. */
export const MIME = "application/vnd.resilient-nb.job+json";
const VERSION = 1;

/** Smaller is preferred: before ipywidgets' -10 and HTML's 50. */
const RANK = -20;

/** What the MIME type stands for. */
export interface IPayload {
  readonly job: string;
  /** Id of the job's cluster, "" if that wasn't known. */
  readonly cluster: string;
  /** The job as it was when the notebook was saved. */
  readonly saved: ISaved | null;
}

/** Makes what is drawn: a job's panel, or a sentence that says why there is none. */
export interface IPanelMaker {
  panel(job: string, saved: ISaved | null, cluster: string): Widget;
  broken(why: Broken): string;
}

/** Why a payload can't be drawn: it names no job, or comes from a newer version. */
export type Broken = "no job" | "newer";

/** Return what a payload says, or why that can't be read. */
export function payload(data: unknown): IPayload | Broken {
  if (typeof data !== "object" || data === null) {
    return "no job";
  }
  const { version, job, cluster, at, view } = data as { readonly [name: string]: unknown };
  if (typeof version === "number" && version > VERSION) {
    return "newer";
  }
  // Anybody may have written it: what turns the text around it can't be a job's id.
  if (typeof job !== "string" || job === "" || oneLine(job) !== job) {
    return "no job";
  }
  const whole = typeof view === "object" && view !== null && "state" in view && "run" in view;
  return {
    job,
    cluster: typeof cluster === "string" ? cluster : "",
    saved: whole ? { view: view as JobView, at: typeof at === "number" ? at : null } : null
  };
}

/** Return the factory for the registry. What it draws is text only: safe without trust. */
export function jobFactory(maker: IPanelMaker): IRenderMime.IRendererFactory {
  return {
    safe: true,
    mimeTypes: [MIME],
    defaultRank: RANK,
    createRenderer: () => new JobRenderer(maker)
  };
}

/** An output of a cell. News of the same job, as the kernel sends them, keep its panel. */
export class JobRenderer extends Panel implements IRenderMime.IRenderer {
  constructor(private readonly maker: IPanelMaker) {
    super();
    this.addClass("rnb-Output");
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const read = payload(model.data[MIME]);
    if (typeof read === "string") {
      this.shown = null;
      this.put(textWidget(this.maker.broken(read)));
    } else if (read.job !== this.shown?.job || read.cluster !== this.shown.cluster) {
      this.shown = read;
      this.put(this.maker.panel(read.job, read.saved, read.cluster));
    }
  }

  /** Show one widget instead of what was shown. */
  private put(widget: Widget): void {
    for (const old of this.widgets.slice()) {
      old.dispose();
    }
    this.addWidget(widget);
  }

  private shown: IPayload | null = null;
}

function textWidget(text: string): Widget {
  const widget = new Widget();
  widget.addClass("rnb-Broken");
  widget.node.textContent = text;
  return widget;
}
