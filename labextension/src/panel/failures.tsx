// What went wrong in a job's attempts, what was decided, and how to decide otherwise.

import { clean, joined, oneLine, size, whole } from "../format";
import { retry } from "../preview";
import { RANK } from "../protocol";
import type { Failure, Frame, RemoteError } from "../protocol";
import { clock, duration } from "../times";
import type { IPanel } from "./context";
import { folded } from "./folding";
import type { IFold } from "./folding";
import { Verb } from "./header";
import { memo } from "./memo";

const MOST_FRAMES = 24;
const MOST_EARLIER = 50;
const GIB = 1024 ** 3;

export interface IFailuresProps {
  readonly panel: IPanel;
  /** Other numbers when something of it is new. */
  readonly failures: number;
  readonly head: number;
  readonly run: number;
  readonly live: boolean;
}

/** The last failure whole, and earlier ones folded. */
export const Failures = memo<IFailuresProps>(({ panel }) => {
  const { model, trans } = panel;
  const folds = folded(model.failures);
  if (folds.length === 0) {
    return null;
  }
  const fatal = model.head?.state === "failed";
  // What it cost is made again: now it is history, and takes a line.
  const recovered = !fatal && (model.head?.step ?? 0) > folds[0].failure.step;
  const earlier = folds.slice(1);
  const count = model.failures.length - folds[0].count;
  return (
    <div class="rnb-Failures">
      <div
        class={`rnb-Note ${fatal ? "rnb-tone-bad" : "rnb-tone-wait"}`}
        role="alert"
        data-rnb="failure"
      >
        <One
          key={`${folds[0].failure.epoch} ${folds[0].failure.at}`}
          panel={panel}
          fold={folds[0]}
          fatal={fatal}
          open={!recovered}
        />
        {fatal ? <Override panel={panel} failure={folds[0].failure} /> : null}
      </div>
      {earlier.length ? (
        <details class="rnb-Earlier">
          <summary>
            {trans._n("%2 earlier failure", "%2 earlier failures", count, whole(count))}
          </summary>
          <ol>
            {earlier.slice(0, MOST_EARLIER).map(fold => (
              <li key={`${fold.failure.epoch} ${fold.failure.at}`}>
                <One panel={panel} fold={fold} fatal={false} open={false} />
              </li>
            ))}
          </ol>
        </details>
      ) : null}
    </div>
  );
});

interface IOneProps {
  readonly panel: IPanel;
  readonly fold: IFold;
  readonly fatal: boolean;
  readonly open: boolean;
}

function One({ panel, fold, fatal, open }: IOneProps) {
  const { trans, feed, model } = panel;
  const { failure, count } = fold;
  const what = fatal ? trans.__("failed") : trans.__("retried");
  const title = joined(
    `${what}: ${oneLine(failure.cause)}`,
    failure.rank === null ? "" : trans.__("rank %1", failure.rank),
    trans.__("step %1", whole(failure.step)),
    clock(failure.at, feed.now()),
    count > 1 ? trans.__("%1 times in a row", count) : ""
  );
  const decision = trans.__("Decision: %1. %2", oneLine(failure.decision), oneLine(failure.reason));
  return (
    <details class="rnb-Failure" open={open}>
      <summary>
        <span aria-hidden="true" class="rnb-sign">
          {fatal ? "✗" : "↻"}
        </span>
        <strong>{title}</strong>
      </summary>
      <Message text={failure.message} />
      {failure.evidence.length ? (
        <p>
          {trans.__("Evidence:")} {joined(...failure.evidence.map(oneLine))}
        </p>
      ) : null}
      <p>{fatal ? decision : `${decision} ${wentOn(panel, failure)}`}</p>
      <Cost panel={panel} failure={failure} />
      {failure.error ? (
        <details open={fatal}>
          <summary>{trans.__("Traceback")}</summary>
          <pre class="rnb-Code" tabIndex={0}>
            {traceback(panel, failure.error, model.head?.label ?? "")}
          </pre>
        </details>
      ) : null}
      {failure.stacks ? (
        <details>
          <summary>{trans.__("Where the threads were")}</summary>
          <pre class="rnb-Code" tabIndex={0}>
            {clean(failure.stacks)}
          </pre>
        </details>
      ) : null}
    </details>
  );
}

const Message = ({ text }: { text: string }) =>
  text ? <p class="rnb-Failure-message">{clean(text)}</p> : null;

function Cost({ panel, failure }: { panel: IPanel; failure: Failure }) {
  const { trans } = panel;
  const parts = [
    failure.lost_steps
      ? trans._n(
          "%2 step to make again",
          "%2 steps to make again",
          failure.lost_steps,
          whole(failure.lost_steps)
        )
      : "",
    failure.lost_s >= 0.05 ? trans.__("%1 of work", duration(trans, failure.lost_s)) : "",
    failure.down_s >= 0.05 ? trans.__("%1 until it ran again", duration(trans, failure.down_s)) : ""
  ].filter(Boolean);
  return parts.length ? <p>{trans.__("Cost: %1.", parts.join(", "))}</p> : null;
}

/** Buttons that decide otherwise. The banner itself says why it was stopped. */
function Override({ panel, failure }: { panel: IPanel; failure: Failure }) {
  const { trans } = panel;
  const memory = /memory|allocation/i.test(failure.cause) ? 2 * limit(panel, failure) : 0;
  return (
    <div class="rnb-Bar">
      <Verb
        panel={panel}
        name={failure.spent ? trans.__("Retry with new tries") : trans.__("Retry anyway")}
        by={scene => retry(scene)}
      />
      {memory > 0 ? (
        <Verb
          panel={panel}
          name={trans.__("Retry with %1 a worker", size(memory))}
          by={scene => retry(scene, memory)}
        />
      ) : null}
    </div>
  );
}

/** Return the memory that a worker had, in whole GiB if it was one or more; 0 if nobody knows. */
function limit({ model }: IPanel, failure: Failure): number {
  const limits = model.ranks.map(row => row[RANK.limit]);
  const known = failure.remedy?.memory || Math.max(0, ...limits);
  return known >= GIB ? Math.round(known / GIB) * GIB : known;
}

function wentOn({ trans }: IPanel, failure: Failure): string {
  return failure.resumes_from === null
    ? trans.__("Begun again: there was no checkpoint.")
    : trans.__("Resumed from step %1.", whole(failure.resumes_from));
}

/** Return a remote exception as Python prints one; the cell's own lines are named by its label. */
export function traceback({ trans }: IPanel, error: RemoteError, label: string): string {
  const cell = error.frames[0]?.filename ?? "";
  const lines = error.frames.length
    ? [trans.__("Traceback of the job (most recent call last):")]
    : [];
  const half = MOST_FRAMES / 2;
  const cut = error.frames.length - MOST_FRAMES;
  error.frames.forEach((frame, i) => {
    if (cut > 0 && i === half) {
      lines.push(trans._n("  … %1 more frame …", "  … %1 more frames …", cut));
    }
    if (cut <= 0 || i < half || i >= half + cut) {
      lines.push(...frameLines(frame, cell, label));
    }
  });
  const said = clean(error.message).trimEnd().split("\n").slice(-40).join("\n");
  const kind = oneLine(error.type);
  return [...lines, said ? `${kind}: ${said}` : kind].join("\n");
}

function frameLines(frame: Frame, cell: string, label: string): string[] {
  const own = frame.filename === cell;
  const installed = frame.filename.indexOf("site-packages/");
  const short = installed < 0 ? frame.filename : `…/${frame.filename.slice(installed + 14)}`;
  const place = own && label ? label : `File "${short}"`;
  const inside = frame.name === "<module>" ? "" : `, in ${frame.name}`;
  const lines = [oneLine(`${place}, line ${frame.lineno}${inside}`)];
  if (frame.line.trim()) {
    lines.push(`${own ? "--> " : "    "}${oneLine(frame.line)}`);
  }
  return lines.map(line => `  ${line}`);
}
