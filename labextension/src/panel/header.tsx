// The head of a panel: which job, how it is, who has it, and what can be done with it.

import { gang, joined, oneLine, whole } from "../format";
import * as preview from "../preview";
import type { JobView } from "../protocol";
import { isFinal, sign } from "../states";
import { clock, duration, stamp } from "../times";
import { Button } from "./button";
import type { IPanel } from "./context";
import { memo } from "./memo";
import { look, steer } from "./steer";
import type { Look } from "./steer";

/** Of a job in no group of its own nothing is said (core/policy.py). */
const DEFAULT_GROUP = "everyone";

export interface IHeaderProps {
  readonly panel: IPanel;
  /** Other numbers when something of it is new, or time has passed. */
  readonly facts: number;
  readonly run: number;
  readonly failures: number;
  readonly clock: number;
  readonly live: boolean;
}

export const Header = memo<IHeaderProps>(({ panel }) => {
  const { model, trans } = panel;
  const job = model.head;
  return (
    <header class="rnb-Head">
      <div class="rnb-Head-line">
        <span class="rnb-Head-id">{model.id}</span>
        {job ? <State panel={panel} job={job} /> : null}
        <span class="rnb-Head-facts">
          {job ? facts(panel, job) : model.unknown ? "" : trans.__("Waiting for news of it.")}
        </span>
        <Buttons panel={panel} />
      </div>
      {job ? (
        <div class="rnb-Head-details rnb-quiet" title={times(panel, job)}>
          {details(panel, job)}
        </div>
      ) : null}
    </header>
  );
});

function State({ panel, job }: { panel: IPanel; job: JobView }) {
  const { symbol, word, tone } = sign(panel.trans, job.state);
  return (
    <span class={`rnb-State rnb-tone-${tone}`}>
      <span class="rnb-sign" aria-hidden="true">
        {symbol}
      </span>
      <span data-rnb="state">{word}</span>
    </span>
  );
}

function Buttons({ panel }: { panel: IPanel }) {
  const { trans, actions, model } = panel;
  const { notebook = "", cell_id = "" } = model.head ?? {};
  const verbs: [string, Look][] = [
    [trans.__("Cancel"), preview.cancel],
    [trans.__("Restart"), preview.restart],
    [trans.__("Resume"), scene => preview.resume(scene)],
    [trans.__("Retry"), scene => preview.retry(scene)]
  ];
  const { openJob, goToCell } = actions;
  return (
    <div class="rnb-Head-buttons" role="group" aria-label={trans.__("Steer the job")}>
      {verbs.map(([name, by]) => (
        <Verb key={name} panel={panel} name={name} by={by} />
      ))}
      {openJob ? (
        <Button panel={panel} name={trans.__("Open in tab")} act={() => openJob(model.id)} />
      ) : null}
      {goToCell ? (
        <Button
          panel={panel}
          name={trans.__("Go to cell")}
          not={notebook ? "" : trans.__("It isn't known which notebook it came from.")}
          act={() => goToCell(notebook, cell_id)}
        />
      ) : null}
    </div>
  );
}

/** A button for something that is previewed: its title says what will come of it. */
export function Verb({ panel, name, by }: { panel: IPanel; name: string; by: Look }) {
  const found = look(panel, by);
  return (
    <Button
      panel={panel}
      name={name}
      title={found.possible ? found.body : undefined}
      not={found.possible ? "" : found.why}
      act={() => steer(panel, by)}
    />
  );
}

/** What matters most, in the line of the name. */
function facts(panel: IPanel, job: JobView): string {
  const { trans } = panel;
  return joined(
    oneLine(job.label),
    job.admin ? trans.__("admin lane") : trans.__("%1 priority", job.priority),
    workers(panel, job),
    job.attempts > 1 ? trans.__("attempt %1", job.attempts) : ""
  );
}

function workers({ trans, model }: IPanel, job: JobView): string {
  if (job.max_workers <= job.workers) {
    const count = trans._n("%2 worker", "%2 workers", job.workers, whole(job.workers));
    const some = job.held > 0 && job.held < job.workers;
    return some ? trans.__("%1 of %2", job.held, count) : count;
  }
  // An elastic gang keeps its number of ranks and shares fewer workers among them.
  const ranks = job.held ? model.ranks.length : 0;
  return joined(
    trans.__("%1 workers (elastic)", gang(trans, job)),
    ranks && ranks !== job.held ? trans._n("%2 rank", "%2 ranks", ranks, whole(ranks)) : ""
  );
}

function details(panel: IPanel, job: JobView): string {
  const { trans, feed } = panel;
  const now = feed.now();
  return joined(
    job.run !== job.id ? trans.__("run %1", oneLine(job.run)) : "",
    job.user ? trans.__("by %1", oneLine(job.user)) : "",
    job.group && job.group !== DEFAULT_GROUP ? trans.__("group %1", oneLine(job.group)) : "",
    job.after.length ? trans.__("after %1", job.after.map(oneLine).join(", ")) : "",
    job.deadline_at !== null ? trans.__("deadline %1", clock(job.deadline_at, now)) : "",
    trans.__("submitted %1", clock(job.submitted_at, now)),
    spent(panel, job, now),
    job.out.length && !isFinal(job.state)
      ? trans.__("returns %1", job.out.map(oneLine).join(", "))
      : ""
  );
}

function spent({ trans, model }: IPanel, job: JobView, now: number): string {
  if (job.state === "queued") {
    return job.attempts ? "" : trans.__("waiting %1", duration(trans, now - job.submitted_at));
  }
  if (job.started_at === null) {
    return "";
  }
  if (job.ended_at === null && model.stale) {
    return ""; // how long it has been running since the notebook was saved isn't known
  }
  const time = duration(trans, (job.ended_at ?? now) - job.started_at);
  const ran =
    job.attempts > 1 ? trans.__("run time %1 (this attempt)", time) : trans.__("run time %1", time);
  return joined(job.ended_at !== null ? trans.__("ended %1", clock(job.ended_at, now)) : "", ran);
}

/** Return all points of time in full. */
function times({ trans }: IPanel, job: JobView): string {
  return [
    trans.__("Submitted %1", stamp(job.submitted_at)),
    job.started_at !== null ? trans.__("started %1", stamp(job.started_at)) : "",
    job.ended_at !== null ? trans.__("ended %1", stamp(job.ended_at)) : ""
  ]
    .filter(Boolean)
    .join("\n");
}
