// How far a job is, how fast, and what it costs to be safe.

import { joined, progress, rate, share, steps, whole } from "../format";
import type { Cadence, Goodput, JobView } from "../protocol";
import { about, duration, short } from "../times";
import type { IPanel } from "./context";
import { memo } from "./memo";

/** Of a younger job, in seconds, that met no failure, goodput is only how long its start took. */
const YOUNG = 60;

export interface IProgressProps {
  readonly panel: IPanel;
  /** Another number when something of it is new. */
  readonly head: number;
}

export const Progress = memo<IProgressProps>(({ panel }) => {
  const { trans, model } = panel;
  const job = model.head;
  if (job === null || (job.state === "queued" && !job.step)) {
    return null;
  }
  const part = job.total_steps ? Math.min(1, job.step / job.total_steps) : 0;
  const said = progress(trans, job.step, job.total_steps);
  return (
    <div class={`rnb-Progress rnb-state-${job.state}`}>
      <div
        class={`rnb-Progress-bar${job.total_steps ? "" : " rnb-mod-open"}`}
        role="progressbar"
        aria-label={trans.__("Progress")}
        aria-valuemin={0}
        aria-valuemax={job.total_steps ?? undefined}
        aria-valuenow={job.total_steps ? Math.min(job.step, job.total_steps) : undefined}
        aria-valuetext={said}
      >
        <div style={{ transform: `scaleX(${part.toFixed(4)})` }} />
      </div>
      <div class="rnb-Progress-said">
        <span class="rnb-Progress-steps">
          <span data-rnb="steps">{counted(panel, job)}</span>
          {job.total_steps ? ` (${share(job.step, job.total_steps)})` : ""}
        </span>
        <span>{speed(panel, job)}</span>
        <span class="rnb-quiet">
          {joined(useful(panel, job.goodput), cadence(panel, job.cadence))}
        </span>
      </div>
    </div>
  );
});

/** Return `step 120 of 500`: the share stands behind it. */
function counted({ trans }: IPanel, job: JobView): string {
  return job.total_steps
    ? trans.__("step %1 of %2", whole(job.step), whole(job.total_steps))
    : trans.__("step %1", whole(job.step));
}

function speed({ trans, model }: IPanel, job: JobView): string {
  if (job.state !== "running" || model.stale) {
    return ""; // nobody knows how fast it is since the notebook was saved
  }
  const left = job.eta_s === null ? "" : trans.__("%1 left", duration(trans, job.eta_s));
  return joined(rate(trans, job.rate), left);
}

function cadence({ trans }: IPanel, known: Cadence | null): string {
  return known === null
    ? ""
    : trans.__(
        "checkpoints every %1 (auto: costs %2, failure expected every %3, at most %4 %)",
        duration(trans, known.every),
        short(trans, known.cost),
        about(trans, known.mtbf),
        Number((100 * known.overhead).toPrecision(3))
      );
}

function useful({ trans }: IPanel, known: Goodput | null): string {
  if (known === null || (known.wall_s < YOUNG && !known.failures)) {
    return "";
  }
  const part =
    known.goodput === null ? "" : trans.__("goodput %1 %", (100 * known.goodput).toFixed(1));
  if (!known.failures) {
    return part;
  }
  const cost = [
    trans._n("%1 failure", "%1 failures", known.failures),
    known.mttr_s === null ? "" : trans.__("%1 to repair", short(trans, known.mttr_s)),
    known.lost_steps ? trans.__("%1 made again", steps(trans, known.lost_steps)) : ""
  ];
  return joined(part, cost.filter(Boolean).join(", "));
}
