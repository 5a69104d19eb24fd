// The output of one rank: from its end, followed while it grows, earlier pieces on scrolling up.

import { Component, createRef } from "preact";

import { size } from "../format";
import type { LogMatch } from "../protocol";
import { reason } from "./context";
import type { IPanel } from "./context";
import { Lines } from "./loglines";
import { appended, opened, prepended } from "./output";
import type { IOutput } from "./output";
import { Search } from "./search";

/** Bytes that are asked for at first and at a time, and how often it is asked for more, in milliseconds. */
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

const EMPTY: ILogsState = {
  epoch: undefined,
  output: null,
  follow: true,
  marked: -1,
  trouble: ""
};

export class Logs extends Component<ILogsProps, ILogsState> {
  state: ILogsState = EMPTY;

  componentDidMount(): void {
    this.open();
    this.plan();
  }

  componentDidUpdate(old: ILogsProps, before: ILogsState): void {
    if (old.rank !== this.props.rank || before.epoch !== this.state.epoch) {
      this.open();
    }
    this.plan();
    this.place(before);
  }

  componentWillUnmount(): void {
    window.clearTimeout(this.timer);
    this.wanted++;
  }

  render() {
    const { panel, rank } = this.props;
    const { output, follow, trouble, marked } = this.state;
    const { trans } = panel;
    return (
      <div class="rnb-Logs">
        {this.bar()}
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

  private bar() {
    const { panel, rank, world, onRank } = this.props;
    const { output, follow, epoch } = this.state;
    const { trans } = panel;
    const ranks = Array.from({ length: Math.max(1, world, rank + 1) }, (_, i) => i);
    return (
      <div class="rnb-Bar">
        <label>
          {trans.__("Rank")}{" "}
          <select value={String(rank)} onChange={e => onRank(Number(e.currentTarget.value))}>
            {ranks.map(i => (
              <option key={i} value={String(i)}>
                {i}
              </option>
            ))}
          </select>
        </label>
        {output !== null && output.epochs.length > 1 ? (
          <label>
            {trans.__("Attempt")}{" "}
            <select
              value={String(epoch ?? output.epoch)}
              onChange={e => this.setState({ epoch: Number(e.currentTarget.value) })}
            >
              {output.epochs.map(e => (
                <option key={e} value={String(e)}>
                  {e}
                </option>
              ))}
            </select>
          </label>
        ) : null}
        <Search panel={panel} rank={rank} epoch={epoch} onMatch={this.show} />
        <label class="rnb-Check">
          <input
            type="checkbox"
            checked={follow}
            onChange={e => this.follow(e.currentTarget.checked)}
          />
          {trans.__("Follow")}
        </label>
        <span class="rnb-quiet">{output === null ? "" : size(output.size)}</span>
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
        this.setState({ trouble: reason(error) });
      }
    } finally {
      if (mine === this.wanted) {
        this.asking = false;
      }
    }
  }

  private open(): void {
    this.wanted++;
    this.setState({ output: null, marked: -1, trouble: "" });
    void this.ask(async current => {
      const piece = await this.fetch(-FIRST, FIRST);
      if (current()) {
        this.setState({ output: opened(piece) });
      }
    });
  }

  private fetch(offset: number, limit: number) {
    const { panel, rank } = this.props;
    return panel.feed.log(panel.model.id, rank, offset, limit, this.state.epoch);
  }

  private plan(): void {
    const { seen, running } = this.props;
    if (this.timer || !seen || !running || !this.state.follow) {
      return;
    }
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      if (this.props.seen && !this.asking) {
        void this.grow().then(() => this.plan());
      } else {
        this.plan();
      }
    }, POLL);
  }

  private grow(): Promise<void> {
    return this.ask(async current => {
      const output = this.state.output;
      const piece = await this.fetch(output?.end ?? -PIECE, PIECE);
      // So much was written meanwhile that what is between wouldn't be read by anybody.
      const far = piece.size - piece.next > PIECE;
      const taken = far ? await this.fetch(-PIECE, PIECE) : piece;
      if (current()) {
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
  /** Offset of the match to scroll to. */
  private target = -1;
  /** Height of what was below the upper edge before earlier lines came. */
  private below = -1;
  private top = 0;
}
