// All parts of a panel, from top to bottom.

import { Component } from "preact";
import { useEffect, useReducer } from "preact/hooks";

import { figure, joined, oneLine, whole } from "../format";
import { RANK } from "../protocol";
import { isFinal } from "../states";
import type { Contact } from "../tokens";
import { Alerts, Notice, Waiting } from "./banners";
import { Checkpoints } from "./checkpoints";
import type { ICheckpointsProps } from "./checkpoints";
import type { IPanel } from "./context";
import { Failures } from "./failures";
import { Header } from "./header";
import { arranged, latest } from "./lines";
import { Notes } from "./lists";
import { Logs } from "./logs";
import { memo } from "./memo";
import { Plots } from "./plots";
import { Progress } from "./progress";
import { Ranks } from "./ranks";
import { Section } from "./section";
import type { IVersions } from "./versions";

export interface IJobProps {
  readonly panel: IPanel;
  readonly versions: IVersions;
  readonly contact: Contact;
  readonly since: number;
  readonly seen: boolean;
}

interface IJobState {
  /** The rank of which the output is shown, and how often that was asked for. */
  readonly rank: number;
  readonly called: number;
  /** How many of its parts are there. */
  readonly parts: number;
}

/** Metrics, checkpoints, ranks, output and notes. */
const PARTS = 5;

export class Job extends Component<IJobProps, IJobState> {
  state: IJobState = { rank: 0, called: 0, parts: 0 };

  componentDidMount(): void {
    this.props.panel.rankChosen.connect(this.showRank, this);
    this.addPart();
  }

  componentWillUnmount(): void {
    this.props.panel.rankChosen.disconnect(this.showRank, this);
    cancelAnimationFrame(this.adding);
  }

  render() {
    const { panel, versions, contact, since } = this.props;
    const { model, trans } = panel;
    const { head, facts, failures, run, clock } = versions;
    const { parts } = this.state;
    const live = contact.kind === "live" && !model.stale && !model.unknown;
    return (
      <section class="rnb-Job" role="region" aria-label={trans.__("Job %1", model.id)}>
        <Header
          panel={panel}
          facts={facts}
          run={run}
          failures={failures}
          clock={clock}
          live={live}
        />
        <Notice
          panel={panel}
          contact={contact}
          since={since}
          stale={model.stale}
          unknown={model.unknown}
        />
        <Said panel={panel} />
        <Waiting panel={panel} facts={facts} clock={clock} />
        <Progress panel={panel} head={head} />
        <Failures panel={panel} failures={failures} head={head} run={run} live={live} />
        <Alerts panel={panel} facts={facts} failures={failures} run={run} />
        {parts > 0 ? <Metrics panel={panel} version={versions.points} /> : null}
        {parts > 1 ? (
          <Lineage panel={panel} run={run} facts={facts} clock={clock} live={live} />
        ) : null}
        {parts > 2 ? <Gang panel={panel} version={versions.ranks} /> : null}
        {parts > 3 ? this.output() : null}
        {parts > 4 ? this.notes() : null}
      </section>
    );
  }

  /** Its parts come one after the other, a frame each: all at once would hold the page up. */
  private addPart(): void {
    if (this.state.parts < PARTS) {
      this.adding = requestAnimationFrame(() => {
        this.setState({ parts: this.state.parts + 1 }, () => this.addPart());
      });
    }
  }

  private output() {
    const { panel, seen } = this.props;
    const { model, trans } = panel;
    const job = model.head;
    if (!panel.sections.output || job === null || job.attempts === 0) {
      return null;
    }
    const running = !isFinal(job.state) && job.state !== "queued";
    return (
      <Section
        name="output"
        title={trans.__("Output")}
        summary={trans.__("rank %1", this.state.rank)}
        open={!panel.compact}
        called={this.state.called}
      >
        {() => (
          <Logs
            panel={panel}
            rank={this.state.rank}
            world={model.ranks.length}
            running={running}
            seen={seen}
            onRank={this.chooseRank}
          />
        )}
      </Section>
    );
  }

  private notes() {
    const { panel, versions } = this.props;
    const { head, notes } = panel.model;
    const { trans } = panel;
    const some =
      notes.length ||
      head?.returned.length ||
      head?.inputs.length ||
      Object.keys(head?.reads ?? {}).length;
    if (!panel.sections.notes || !some) {
      return null;
    }
    const summary = joined(
      head?.returned.length ? trans.__("returned %1", head.returned.map(oneLine).join(", ")) : "",
      notes.length ? trans._n("%1 note", "%1 notes", notes.length) : ""
    );
    return (
      <Section
        name="notes"
        title={trans.__("Data and notes")}
        summary={summary}
        open={!panel.compact}
      >
        {() => <Notes panel={panel} notes={versions.notes} facts={versions.facts} />}
      </Section>
    );
  }

  private readonly chooseRank = (rank: number) => this.setState({ rank });

  private showRank(_: object, rank: number): void {
    this.setState({ rank, called: this.state.called + 1 });
  }

  private adding = 0;
}

// Each of these is made again only when its piece is new: others are, several times a second.

const Metrics = memo<{ panel: IPanel; version: number }>(({ panel, version }) => {
  const { series } = panel.model;
  if (!panel.sections.plots || series.size === 0) {
    return null;
  }
  const names = arranged(series.keys()).slice(0, 3);
  const summary = names.map(name => {
    const points = series.get(name);
    return `${oneLine(name)} ${figure(panel.trans, points && latest(points))}`;
  });
  return (
    <Section name="plots" title={panel.trans.__("Metrics")} summary={joined(...summary)} open>
      {() => <Plots panel={panel} version={version} />}
    </Section>
  );
});

const Lineage = memo<ICheckpointsProps>(props => {
  const { panel } = props;
  const { run } = panel.model;
  const { trans } = panel;
  if (!panel.sections.checkpoints || run === null || run.checkpoints.length === 0) {
    return null;
  }
  const count = run.checkpoints.length;
  const head = run.checkpoints.find(c => c.id === run.head);
  const summary = joined(
    whole(count),
    head ? trans.__("head at step %1", whole(head.step)) : trans.__("no head")
  );
  return (
    <Section
      name="checkpoints"
      title={trans.__("Checkpoints")}
      summary={summary}
      open
      called={panel.comparing.wanted}
    >
      {() => <Checkpoints {...props} />}
    </Section>
  );
});

const Gang = memo<{ panel: IPanel; version: number }>(({ panel, version }) => {
  const { ranks } = panel.model;
  const { trans } = panel;
  if (!panel.sections.ranks || ranks.length === 0) {
    return null;
  }
  const slow = ranks.filter(row => row[RANK.straggler]).length;
  const summary = joined(
    whole(ranks.length),
    slow ? trans._n("%2 straggler", "%2 stragglers", slow, whole(slow)) : ""
  );
  return (
    <Section name="ranks" title={trans.__("Ranks")} summary={summary} open>
      {() => <Ranks panel={panel} version={version} />}
    </Section>
  );
});

/** What came of the last action. The element stays, so that it is read out. */
function Said({ panel }: { panel: IPanel }) {
  const { doing, trans } = panel;
  const [, redraw] = useReducer((n: number) => n + 1, 0);
  useEffect(() => {
    const changed = () => redraw(undefined as never);
    doing.changed.connect(changed);
    return () => void doing.changed.disconnect(changed);
  }, [doing]);
  const { told, verb } = doing;
  const text = verb ? trans.__("Waiting for the answer…") : (told?.text ?? "");
  return (
    <div role="status" data-rnb="said" class="rnb-Said">
      {text ? (
        <p class={`rnb-Note ${told?.refused && !verb ? "rnb-tone-bad" : "rnb-tone-off"}`}>
          <span aria-hidden="true" class="rnb-sign">
            {verb ? "…" : told?.refused ? "✗" : "→"}
          </span>
          {oneLine(text)}
        </p>
      ) : null}
    </div>
  );
}
