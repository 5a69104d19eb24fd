// What a user should know of a job first: notices, why it waits, alerts, how it ended.

import type { TranslationBundle } from "@jupyterlab/translation";
import { Component } from "preact";

import { oneLine, whole } from "../format";
import { headOf, sceneOf } from "../scene";
import { isFinal } from "../states";
import type { Failure, JobView, Proposal } from "../protocol";
import type { Contact } from "../tokens";
import { ahead, clock, stamp } from "../times";
import { reason } from "./context";
import type { IPanel } from "./context";
import { Items } from "./lists";
import { memo } from "./memo";

/** The cause of failures that only the user can mend (core/causes.py). */
const USER_ERROR = "error in the cell";

// --- whether it is live -----------------------------------------------------------------------

export interface INoticeProps {
  readonly panel: IPanel;
  readonly contact: Contact;
  /** Since when it isn't live, in seconds since 1970. */
  readonly since: number;
  readonly stale: boolean;
  readonly unknown: boolean;
}

/** That what is shown isn't live, why, and since when. */
export const Notice = memo<INoticeProps>(props => {
  const text = notice(props);
  return (
    <div class="rnb-Live" role="status" data-rnb={text ? "offline" : undefined}>
      {text ? <Sign symbol="◌" text={text} tone="wait" /> : null}
    </div>
  );
});

function notice({ panel, contact, since, stale, unknown }: INoticeProps): string {
  const { trans, feed, model } = panel;
  const at = clock(since, feed.now());
  const ended = model.head !== null && isFinal(model.head.state);
  const goesOn = ended ? "" : trans.__("The job itself goes on.");
  const file = stale ? fromFile(panel) : "";
  const said = (...texts: string[]) => texts.filter(Boolean).join(" ");
  switch (contact.kind) {
    case "connecting":
      return stale ? said(trans.__("Connecting to the Jupyter server."), file) : "";
    case "offline": {
      const text = trans.__("The Jupyter server hasn't answered since %1.", at);
      return said(text, goesOn, file || trans.__("This panel goes on once it answers."));
    }
    case "down": {
      const why = oneLine(contact.why);
      return contact.noCluster
        ? said(why, file)
        : said(why, trans.__("Not live since %1.", at), goesOn, file);
    }
    case "live":
      if (unknown) {
        // Another cluster may use the same name for a job of its own.
        const why = feed.board.rows.some(row => row.id === model.id)
          ? trans.__(
              "It was submitted to another cluster: %1 of the cluster that is up is another job.",
              model.id
            )
          : trans.__("The cluster has no job %1.", model.id);
        return said(why, file);
      }
      return stale ? said(trans.__("Waiting for news of it."), file) : "";
  }
}

function fromFile({ trans, model }: IPanel): string {
  return model.savedAt === null
    ? trans.__("What is shown is from the notebook's file.")
    : trans.__("What is shown is from the notebook's file, as of %1.", stamp(model.savedAt));
}

// --- why it waits -----------------------------------------------------------------------------

export interface IWaitingProps {
  readonly panel: IPanel;
  readonly facts: number;
  readonly clock: number;
}

interface IWaitingState {
  readonly remedies: readonly string[] | null;
  readonly trouble: string;
}

/** Why it waits or stops, and on demand what would start it sooner. */
export class Waiting extends Component<IWaitingProps, IWaitingState> {
  state: IWaitingState = { remedies: null, trouble: "" };

  shouldComponentUpdate(next: IWaitingProps, state: IWaitingState): boolean {
    const old = this.props;
    return next.facts !== old.facts || next.clock !== old.clock || state !== this.state;
  }

  componentDidUpdate(): void {
    const waits = this.props.panel.model.head?.state === "queued";
    if (!waits && this.state.remedies !== null) {
      this.less(); // when it waits again, something else may help
    }
  }

  render() {
    const { trans, model } = this.props.panel;
    const job = model.head;
    const waits = job?.state === "queued";
    const stops = job?.state === "stopping" && job.reason !== "";
    const { remedies, trouble } = this.state;
    // The element stays: only what changes within it is read out.
    return (
      <div role="status" data-rnb={waits ? "waiting" : undefined} class="rnb-Waiting">
        {job && stops ? (
          <Sign symbol="■" tone="wait" text={`${trans.__("Stopping:")} ${oneLine(job.reason)}`} />
        ) : null}
        {job && waits ? (
          <div class="rnb-Note rnb-tone-wait">
            <p>
              <span aria-hidden="true" class="rnb-sign">
                ○
              </span>
              <strong>{trans.__("Waiting:")}</strong> {this.said(job)}{" "}
              <button
                type="button"
                class="rnb-Link"
                aria-expanded={remedies !== null}
                onClick={remedies === null ? this.more : this.less}
              >
                {remedies === null ? trans.__("More") : trans.__("Less")}
              </button>
            </p>
            {remedies !== null ? (
              <Items
                panel={this.props.panel}
                title={trans.__("What would start it sooner")}
                items={remedies.length ? remedies : [trans.__("Nothing but patience.")]}
              />
            ) : null}
            {trouble ? <p>{trouble}</p> : null}
          </div>
        ) : null}
      </div>
    );
  }

  private said(job: JobView): string {
    const { trans, feed } = this.props.panel;
    return [
      oneLine(job.reason) || trans.__("for its turn."),
      job.position ? trans.__("Number %1 in the queue.", whole(job.position)) : "",
      starts(trans, job, feed.now()),
      job.reason.includes("(back-off)") ? trans.__("Retry starts it now.") : ""
    ]
      .filter(Boolean)
      .join(" ");
  }

  private less = () => this.setState({ remedies: null, trouble: "" });

  private more = async () => {
    const { feed, model } = this.props.panel;
    try {
      const report = await feed.why(model.id);
      this.setState({ remedies: report.remedies, trouble: "" });
    } catch (error) {
      this.setState({ trouble: reason(error) });
    }
  };
}

/** When a waiting job is expected to start, and whether that is only a guess. */
function starts(trans: TranslationBundle, job: JobView, now: number): string {
  if (job.starts_at === null) {
    return "";
  }
  const when = ahead(trans, job.starts_at, now);
  return job.starts_guess
    ? trans.__(
        "Expected to start: %1 (a guess: nobody knows how long %2 takes).",
        when,
        oneLine(job.starts_guess)
      )
    : trans.__("Expected to start: %1.", when);
}

// --- alerts, proposals, chaos, the end --------------------------------------------------------

export interface IBannersProps {
  readonly panel: IPanel;
  readonly facts: number;
  readonly failures: number;
  readonly run: number;
}

export const Alerts = memo<IBannersProps>(({ panel }) => {
  const { trans, model } = panel;
  const job = model.head;
  const alerts = job?.alerts ?? [];
  const proposals = job && !isFinal(job.state) ? job.proposals : [];
  return (
    <>
      {alerts.map(text => (
        <Sign key={text} symbol="▲" tone="bad" name={trans.__("Alert:")} text={oneLine(text)} />
      ))}
      {proposals.map(proposal => (
        <Sign
          key={proposal.kind}
          symbol="▷"
          tone="wait"
          name={trans.__("Proposal:")}
          text={proposed(panel, proposal)}
        />
      ))}
      <Items panel={panel} title={trans.__("Broken on purpose (chaos)")} items={chaos(panel)} />
      {job ? <Ending panel={panel} job={job} /> : null}
    </>
  );
});

function proposed({ trans }: IPanel, { kind, evidence }: Proposal): string {
  const why = {
    converged: trans.__("It has converged."),
    late: trans.__("It misses its deadline."),
    dominated: trans.__("Its siblings are better by far.")
  }[kind];
  const how = trans.__("Cancel stops it at a checkpoint, and tags its best one.");
  return [why, ...evidence.map(oneLine), how].filter(Boolean).join(" ");
}

function chaos({ trans, model, feed }: IPanel): string[] {
  return model.chaos.map(one => {
    const where =
      one.kind === "corrupt-chunk"
        ? one.kind
        : one.kind === "kill-worker"
          ? trans.__("%1 of %2", one.kind, oneLine(one.host))
          : trans.__("%1 of rank %2", one.kind, one.rank);
    const lasts = one.seconds ? ` ${trans.__("for %1 s", one.seconds)}` : "";
    const by = one.user ? ` ${trans.__("by %1", oneLine(one.user))}` : "";
    return `${clock(one.at, feed.now())}: ${where}${lasts}${by}`;
  });
}

/** How an unsuccessful job ended, where no failure says it, and the way out. */
function Ending({ panel, job }: { panel: IPanel; job: JobView }) {
  const { trans, model, feed } = panel;
  if (job.state !== "failed" && job.state !== "cancelled") {
    return null;
  }
  const failed = job.state === "failed";
  const last = model.failures[model.failures.length - 1];
  const scene = sceneOf(trans, feed, model);
  const head = scene && headOf(scene);
  const goesOn = head
    ? trans.__("It goes on from step %1.", whole(head.step))
    : scene?.run
      ? trans.__("It begins from step 0: there is no checkpoint at the head.")
      : trans.__("It goes on from the run's head, if it has a checkpoint.");
  return (
    <>
      {job.reason && !(failed && last) ? (
        <Sign
          symbol={failed ? "✗" : "⊘"}
          tone={failed ? "bad" : "off"}
          text={oneLine(job.reason)}
        />
      ) : null}
      <Sign
        symbol="→"
        tone="off"
        name={trans.__("To go on:")}
        text={`${wayOut(panel, failed ? last : undefined)}. ${goesOn}`}
      />
    </>
  );
}

function wayOut({ trans }: IPanel, failure: Failure | undefined): string {
  if (failure === undefined) {
    return trans.__("run the cell again, or press Resume");
  }
  if (failure.spent) {
    return trans.__("Retry gives it new tries (%1 used up)", oneLine(failure.spent));
  }
  return failure.cause === USER_ERROR
    ? trans.__("correct the cell and run it again, or press Retry anyway")
    : trans.__("mend it, or press Retry anyway");
}

interface ISignProps {
  readonly symbol: string;
  readonly tone: string;
  readonly name?: string;
  readonly text: string;
}

const Sign = ({ symbol, tone, name, text }: ISignProps) => (
  <p class={`rnb-Note rnb-tone-${tone}`}>
    <span aria-hidden="true" class="rnb-sign">
      {symbol}
    </span>
    {name ? <strong>{name}</strong> : null} {text}
  </p>
);
