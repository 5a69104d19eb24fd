// The checkpoints of a job's run: which one is chosen, what it is, and what can be done with it.

import { Component, createRef } from "preact";

import { joined, number, oneLine, reference, shortDigest, size, whole } from "../format";
import { timeline } from "../lineage";
import type { ITimeline } from "../lineage";
import * as preview from "../preview";
import type { CheckpointView, DiffReport, RunView } from "../protocol";
import { clock, stamp } from "../times";
import { Button } from "./button";
import type { IPanel } from "./context";
import { Difference } from "./diff";
import { Graph } from "./graph";
import { Verb } from "./header";
import { arranged } from "./lines";
import { fork, look, tag } from "./steer";

/** Of more metrics the rest is counted. */
const MOST_METRICS = 8;

export interface ICheckpointsProps {
  readonly panel: IPanel;
  /** Other numbers when something of it is new, or time has passed. */
  readonly run: number;
  readonly facts: number;
  readonly clock: number;
  readonly live: boolean;
}

interface ICheckpointsState {
  /** Ids: of the chosen one, null to stay with the head; and of what it is compared with. */
  readonly chosen: string | null;
  readonly other: string | null;
  /** A second one is to be chosen, to compare the first one with. */
  readonly picking: boolean;
  readonly report: DiffReport | null;
}

export class Checkpoints extends Component<ICheckpointsProps, ICheckpointsState> {
  state: ICheckpointsState = { chosen: null, other: null, picking: false, report: null };

  shouldComponentUpdate(next: ICheckpointsProps, state: ICheckpointsState): boolean {
    const old = this.props;
    return (
      next.run !== old.run ||
      next.facts !== old.facts ||
      next.clock !== old.clock ||
      next.live !== old.live ||
      state !== this.state
    );
  }

  componentDidMount(): void {
    this.ask();
  }

  componentDidUpdate(): void {
    this.ask();
  }

  render() {
    const { panel } = this.props;
    const { trans } = panel;
    const drawn = this.drawn();
    const at = this.column(drawn);
    const chosen = drawn.nodes[at]?.checkpoint;
    const { picking, report, other } = this.state;
    if (chosen === undefined) {
      return <p class="rnb-quiet">{trans.__("There is no checkpoint yet.")}</p>;
    }
    return (
      <div class="rnb-Checkpoints">
        <Graph
          panel={panel}
          drawn={drawn}
          chosen={at}
          other={other === null ? null : (drawn.columns.get(other) ?? null)}
          onChoose={this.choose}
          onEnter={this.enter}
        />
        <div class="rnb-Chosen" onKeyDown={this.onBarKey} ref={this.bar}>
          {picking ? this.picking(chosen) : this.actions(chosen)}
          <Details panel={panel} checkpoint={chosen} />
        </div>
        {report ? (
          <Difference
            panel={panel}
            report={report}
            close={this.close}
          />
        ) : null}
      </div>
    );
  }

  /** The layout, made again only for another run: jobs tell of their progress far more often. */
  private drawn(): ITimeline {
    const run = this.props.panel.model.run;
    if (this.laid === null || run !== this.laidOf) {
      this.laid = timeline(run);
      this.laidOf = run;
    }
    return this.laid;
  }

  private column(drawn: ITimeline): number {
    const chosen = this.state.chosen === null ? undefined : drawn.columns.get(this.state.chosen);
    return chosen ?? drawn.head ?? drawn.nodes.length - 1;
  }

  private actions(chosen: CheckpointView) {
    const { panel } = this.props;
    const { trans, actions } = panel;
    const forking = look(panel, scene => preview.fork(scene, chosen));
    const tagging = look(panel, scene => preview.tag(scene, chosen));
    const alone = (panel.model.run?.checkpoints.length ?? 0) < 2;
    const { insertCode } = actions;
    return (
      <div class="rnb-Bar" role="group" aria-label={trans.__("With step %1", whole(chosen.step))}>
        <Verb
          panel={panel}
          name={trans.__("Roll back")}
          by={scene => preview.rollback(scene, chosen)}
        />
        <Verb
          panel={panel}
          name={trans.__("Resume from here")}
          by={scene => preview.resume(scene, chosen)}
        />
        <Button
          panel={panel}
          name={trans.__("Fork")}
          title={forking.possible ? forking.body : undefined}
          not={forking.possible ? "" : forking.why}
          act={() => fork(panel, chosen)}
        />
        <Button
          panel={panel}
          name={trans.__("Tag")}
          title={tagging.possible ? tagging.body : undefined}
          not={tagging.possible ? "" : tagging.why}
          act={() => tag(panel, chosen)}
        />
        <Button
          panel={panel}
          name={trans.__("Compare")}
          title={trans.__("Choose a second checkpoint, and see what differs.")}
          not={alone ? trans.__("There is no other checkpoint to compare it with.") : ""}
          act={this.pick}
        />
        {insertCode ? (
          <Button
            panel={panel}
            name={trans.__("Load")}
            title={trans.__("Insert the code that reads it.")}
            act={() => insertCode(loading(chosen, this.onLine(chosen)))}
          />
        ) : null}
      </div>
    );
  }

  private picking(chosen: CheckpointView) {
    const { panel } = this.props;
    const { trans } = panel;
    const first = panel.model.run?.checkpoints.find(c => c.id === this.state.other);
    const same = first?.id === chosen.id;
    return (
      <div class="rnb-Bar" role="group" aria-label={trans.__("Compare")}>
        <span role="status">
          {trans.__("Compare step %1 with: choose another one.", whole(first?.step))}
        </span>
        <Button
          panel={panel}
          name={trans.__("Compare with step %1", whole(chosen.step))}
          not={same ? trans.__("It is the same one: choose another one first.") : ""}
          act={() => this.compare(chosen)}
        />
        <button type="button" class="rnb-Button" onClick={this.unpick}>
          {trans.__("Don't compare")}
        </button>
      </div>
    );
  }

  /** If a command has said that two are to be compared. */
  private ask(): void {
    const { comparing, model } = this.props.panel;
    if (comparing.asked === comparing.wanted) {
      return;
    }
    comparing.asked = comparing.wanted;
    if ((model.run?.checkpoints.length ?? 0) > 1) {
      this.pick();
    }
  }

  private choose = (column: number) => {
    this.setState({ chosen: this.drawn().nodes[column].checkpoint.id });
  };

  /** The chosen one is the first of two. The keyboard goes back to where the second is chosen. */
  private pick = () => {
    const drawn = this.drawn();
    const id = drawn.nodes[this.column(drawn)].checkpoint.id;
    this.setState({ picking: true, other: id, chosen: id, report: null }, this.toList);
  };

  private unpick = () => this.setState({ picking: false, other: null }, this.toList);

  private compare = (chosen: CheckpointView) => {
    const { panel } = this.props;
    const first = panel.model.run?.checkpoints.find(c => c.id === this.state.other);
    if (first === undefined) {
      this.unpick();
      return;
    }
    const [a, b] = first.at <= chosen.at ? [first, chosen] : [chosen, first];
    void panel.doing.run("diff", async () => {
      const report = await panel.feed.diff(a.id, b.id);
      this.setState({ report, picking: false }, this.keepFocus());
      return panel.trans.__("Compared %1 with %2; see below.", oneLine(a.ref), oneLine(b.ref));
    });
  };

  private close = () => this.setState({ report: null, other: null }, this.toList);

  private onLine({ id }: CheckpointView): boolean {
    const { nodes, columns } = this.drawn();
    return nodes[columns.get(id) ?? -1]?.onLine === true;
  }

  /** What has the focus may go: return what then puts it back, if it is among the buttons. */
  private keepFocus(): () => void {
    const had = this.bar.current?.contains(document.activeElement) === true;
    return () => (had ? this.toList() : undefined);
  }

  private enter = () => {
    this.bar.current?.querySelector<HTMLElement>("button")?.focus();
  };

  private toList = () => {
    this.bar.current?.parentElement?.querySelector<HTMLElement>("[role=listbox]")?.focus();
  };

  private onBarKey = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      if (this.state.picking) {
        this.unpick();
      } else {
        this.toList();
      }
    }
  };

  private readonly bar = createRef<HTMLDivElement>();
  private laid: ITimeline | null = null;
  private laidOf: RunView | null = null;
}

/** Return the code that reads a checkpoint. A step alone means the one that leads to the head. */
export function loading({ id, ref }: CheckpointView, onLine = true): string {
  const name = onLine ? ref : id;
  return `import resilient_nb\n\nstate = resilient_nb.load(${JSON.stringify(name)})`;
}

function Details({ panel, checkpoint: c }: { panel: IPanel; checkpoint: CheckpointView }) {
  const { trans, feed } = panel;
  const names = arranged(Object.keys(c.metrics));
  const metrics = names
    .slice(0, MOST_METRICS)
    .map(name => `${oneLine(name)} ${number(c.metrics[name])}`);
  const more = names.length - metrics.length;
  const copied = {
    yes: trans.__("replicated"),
    lagging: trans.__("replication lags"),
    failing: trans.__("replication fails")
  }[c.replicated];
  return (
    <p class="rnb-Chosen-details" title={stamp(c.at)}>
      <strong>{trans.__("step %1", whole(c.step))}</strong>{" "}
      {joined(
        oneLine(c.ref),
        c.is_head ? trans.__("head") : "",
        ...c.tags.map(oneLine),
        ...metrics,
        more > 0 ? trans._n("%2 more metric", "%2 more metrics", more, whole(more)) : "",
        clock(c.at, feed.now()),
        trans.__("%1 (%2 changed)", size(c.nbytes), size(c.changed)),
        c.parent === null
          ? trans.__("begins a line")
          : trans.__("after %1", oneLine(reference(c.parent))),
        c.job ? trans.__("by %1", oneLine(c.job)) : "",
        trans.__("digest %1", shortDigest(c.digest)),
        copied ?? ""
      )}
    </p>
  );
}
