// The output of one rank: from its end, followed while it grows, earlier pieces on scrolling up.

import { Component, createRef } from "preact";

import type { LogMatch } from "../protocol";
import { reason } from "./context";
import type { IPanel } from "./context";
import { LogBar } from "./logbar";
import { Lines } from "./loglines";
import { differ } from "./memo";
import { appended, opened, prepended } from "./output";
import type { IOutput } from "./output";

/** Bytes that are asked for at first and at a time, and the milliseconds between two questions. */
const FIRST = 16 * 1024;
const PIECE = 64 * 1024;
const POLL = 1000;

export interface ILogsProps {
  readonly panel: IPanel;
  readonly rank: number;
  readonly world: number;
  readonly running: boolean;
  /** Whether anybody sees it. */
  readonly seen: boolean;
  readonly onRank: (rank: number) => void;
}

interface ILogsState {
  /** The attempt that is shown; undefined for the newest. */
  readonly epoch: number | undefined;
  readonly output: IOutput | null;
  readonly follow: boolean;
  /** Offset of the line that was searched for; -1 if none was. */
  readonly marked: number;
  readonly trouble: string;
}

export class Logs extends Component<ILogsProps, ILogsState> {
  state: ILogsState = { epoch: undefined, output: null, follow: true, marked: -1, trouble: "" };

  componentDidMount(): void {
    this.open();
    this.plan();
  }

  // Else it would be made again with each news of the job.
  shouldComponentUpdate(next: ILogsProps, state: ILogsState): boolean {
    return state !== this.state || differ(this.props, next);
  }

  componentDidUpdate(old: ILogsProps, before: ILogsState): void {
    if (old.rank !== this.props.rank || before.epoch !== this.state.epoch) {
      this.open();
    }
    this.known = this.state.output ?? this.known;
    this.plan();
    this.place(before);
  }

  componentWillUnmount(): void {
    window.clearTimeout(this.timer);
    this.gone = true;
    this.wanted++;
  }

  render() {
    const { panel, rank, world, onRank } = this.props;
    const { epoch, output, follow, trouble, marked } = this.state;
    const { trans } = panel;
    return (
      <div class="rnb-Logs">
        <LogBar
          panel={panel}
          rank={rank}
          world={world}
          epoch={epoch}
          known={output ?? this.known}
          follow={follow}
          onRank={onRank}
          onEpoch={epoch => this.setState({ epoch })}
          onMatch={this.show}
          onFollow={follow => this.follow(follow)}
        />
        {trouble ? (
          <p class="rnb-Note rnb-tone-bad" role="status">
            {trouble}
          </p>
        ) : null}
        <div
          ref={this.box}
          class="rnb-Logs-text"
          role="log"
          tabIndex={0}
          aria-label={trans.__("Output of rank %1", rank)}
          aria-live={follow ? "polite" : "off"}
          onScroll={this.onScroll}
        >
          {output?.blocks.map(block => (
            <Lines key={block[0].offset} block={block} marked={marked} />
          ))}
          {output !== null && output.size === 0 ? trans.__("It has written nothing yet.") : null}
        </div>
      </div>
    );
  }

  // --- what is asked for ----------------------------------------------------------------------

  /** Do one request at a time; what an overtaken one brings is dropped. */
  private async ask(work: (current: () => boolean) => Promise<void>): Promise<void> {
    const mine = this.wanted;
    this.asking = true;
    try {
      await work(() => mine === this.wanted);
      if (mine === this.wanted && this.state.trouble) {
        this.setState({ trouble: "" });
      }
    } catch (error) {
      if (mine === this.wanted) {
        // While the cluster answers, this is its answer: it is no use to ask it again.
        this.whole = this.props.panel.feed.contact.kind === "live";
        this.setState({ trouble: reason(error) });
      }
    } finally {
      if (mine === this.wanted) {
        this.asking = false;
      }
    }
  }

  private open(): void {
    const last = !this.props.running;
    this.wanted++;
    this.whole = false;
    this.setState({ output: null, marked: -1, trouble: "" });
    void this.ask(async current => {
      const piece = await this.fetch(-FIRST, FIRST);
      if (current()) {
        this.whole = last;
        this.setState({ output: opened(piece) });
      }
    });
  }

  private fetch(offset: number, limit: number) {
    const { panel, rank } = this.props;
    return panel.feed.log(panel.model.id, rank, offset, limit, this.state.epoch);
  }

  /** Whether there may be more to read: once more, too, after the job has ended. */
  private get due(): boolean {
    const { seen, running } = this.props;
    return !this.gone && seen && this.state.follow && (running || !this.whole);
  }

  private plan(): void {
    if (this.timer || !this.due) {
      return;
    }
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      const grown = this.due && !this.asking ? this.grow() : Promise.resolve();
      void grown.then(() => this.plan());
    }, POLL);
  }

  private grow(): Promise<void> {
    const last = !this.props.running;
    return this.ask(async current => {
      const output = this.state.output;
      const piece = await this.fetch(output?.end ?? -PIECE, PIECE);
      // So much was written meanwhile that what is between wouldn't be read by anybody.
      const far = piece.size - piece.next > PIECE;
      const taken = far ? await this.fetch(-PIECE, PIECE) : piece;
      if (current()) {
        this.whole = last && taken.next >= taken.size;
        this.setState({ output: output === null || far ? opened(taken) : appended(output, taken) });
      }
    });
  }

  private earlier(): void {
    const output = this.state.output;
    if (output === null || output.begin <= 0 || this.asking) {
      return;
    }
    const offset = Math.max(0, output.begin - PIECE);
    void this.ask(async current => {
      const piece = await this.fetch(offset, output.begin - offset);
      const box = this.box.current;
      if (current() && box !== null) {
        this.below = box.scrollHeight - box.scrollTop;
        this.setState({ output: prepended(output, piece) });
      }
    });
  }

  /** Show a match, wherever it is. */
  private show = (match: LogMatch | null) => {
    const output = this.state.output;
    if (match === null || output === null) {
      this.setState({ marked: -1 });
      return;
    }
    this.target = match.offset;
    this.setState({ marked: match.offset, follow: false });
    if (match.offset < output.begin || match.offset >= output.end) {
      this.wanted++; // what is on its way joins what is shown now
      void this.ask(async current => {
        const piece = await this.fetch(Math.max(0, match.offset - PIECE / 2), PIECE);
        if (current()) {
          this.target = match.offset;
          this.setState({ output: opened(piece, true) });
        }
      });
    }
  };

  // --- where it is scrolled to ------------------------------------------------------------------

  private follow(follow: boolean): void {
    this.setState({ follow });
    const output = this.state.output;
    if (follow && output !== null && output.end < output.size) {
      this.open();
    }
  }

  private place(before: ILogsState): void {
    const box = this.box.current;
    if (box === null) {
      return;
    }
    if (this.target >= 0) {
      // Only the output scrolls, not what is around it.
      const line = box.querySelector<HTMLElement>(".rnb-mod-match");
      if (line !== null) {
        box.scrollTop += line.getBoundingClientRect().top - box.getBoundingClientRect().top - 80;
      }
      this.target = -1;
    } else if (this.below >= 0) {
      box.scrollTop = box.scrollHeight - this.below;
      this.below = -1;
    } else if (this.state.output !== before.output || this.state.follow !== before.follow) {
      if (this.state.follow || before.output === null) {
        box.scrollTop = box.scrollHeight;
        this.top = box.scrollTop;
      }
    }
  }

  private onScroll = () => {
    const box = this.box.current;
    if (box === null) {
      return;
    }
    const up = box.scrollTop < this.top - 4;
    this.top = box.scrollTop;
    if (up && this.state.follow && box.scrollTop + box.clientHeight < box.scrollHeight - 30) {
      this.setState({ follow: false });
    }
    if (box.scrollTop < 100 && up) {
      this.earlier();
    } else if (!up && box.scrollTop + box.clientHeight > box.scrollHeight - 30) {
      this.later();
    }
  };

  /** What was dropped from the end, or lies behind a match that was gone to. */
  private later(): void {
    const output = this.state.output;
    if (output !== null && output.end < output.size && !this.asking) {
      void this.ask(async current => {
        const piece = await this.fetch(output.end, PIECE);
        if (current()) {
          this.setState({ output: appended(output, piece) });
        }
      });
    }
  }

  private readonly box = createRef<HTMLDivElement>();
  private timer = 0;
  /** Number of the text that is wanted; answers about others are dropped. */
  private wanted = 0;
  private asking = false;
  /** All was read after the job had ended. */
  private whole = false;
  private gone = false;
  /** What was shown last: its attempts stay to be chosen from while another one is opened. */
  private known: IOutput | null = null;
  /** Offset of the match to scroll to. */
  private target = -1;
  /** Height of what was below the upper edge before earlier lines came. */
  private below = -1;
  private top = 0;
}
