// The search box above a rank's output: the matches, and which of them is shown.

import { Component } from "preact";
import type { TargetedKeyboardEvent } from "preact";

import { whole } from "../format";
import type { LogMatch } from "../protocol";
import { reason } from "./context";
import type { IPanel } from "./context";

export interface ISearchProps {
  readonly panel: IPanel;
  readonly rank: number;
  /** The attempt that is searched; undefined for the newest. */
  readonly epoch: number | undefined;
  /** A match is to be shown; null: none any more. */
  readonly onMatch: (match: LogMatch | null) => void;
}

interface ISearchState {
  readonly text: string;
  /** What the matches are of, "" if nothing was searched for. */
  readonly searched: string;
  readonly matches: readonly LogMatch[];
  /** There are earlier ones. */
  readonly more: boolean;
  /** Place of the match that is shown. */
  readonly at: number;
  readonly trouble: string;
}

const NONE = { searched: "", matches: [], more: false, at: -1, trouble: "" };

export class Search extends Component<ISearchProps, ISearchState> {
  state: ISearchState = { text: "", ...NONE };

  componentDidUpdate(old: ISearchProps): void {
    if (old.rank !== this.props.rank || old.epoch !== this.props.epoch) {
      this.asked++;
      this.setState(NONE);
    }
  }

  componentWillUnmount(): void {
    this.asked++;
  }

  render() {
    const { trans } = this.props.panel;
    const { text, searched, matches, trouble } = this.state;
    return (
      <span class="rnb-Bar-group" role="search">
        <input
          type="text"
          value={text}
          aria-label={trans.__("Search the output")}
          placeholder={trans.__("Search the output")}
          onInput={e => this.type(e.currentTarget.value)}
          onKeyDown={this.onKeyDown}
        />
        <button type="button" disabled={!matches.length} onClick={() => this.step(-1)}>
          {trans.__("Previous")}
        </button>
        <button type="button" disabled={!matches.length} onClick={() => this.step(1)}>
          {trans.__("Next")}
        </button>
        <span role="status" class="rnb-quiet">
          {trouble || (text !== "" && searched === text ? this.found() : "")}
        </span>
      </span>
    );
  }

  private found(): string {
    const { trans } = this.props.panel;
    const { matches, more, at } = this.state;
    if (matches.length === 0) {
      return trans.__("none found");
    }
    const count = whole(matches.length);
    return trans.__("%1 of %2", whole(at + 1), more ? trans.__("the last %1", count) : count);
  }

  private type(text: string): void {
    this.setState(text === "" ? { text, ...NONE } : { text });
    if (text === "") {
      this.props.onMatch(null);
    }
  }

  private onKeyDown = (event: TargetedKeyboardEvent<HTMLInputElement>) => {
    const text = event.currentTarget.value;
    if (event.key === "Enter" && text !== "") {
      event.preventDefault();
      if (this.state.searched === text && this.state.matches.length) {
        this.step(event.shiftKey ? 1 : -1);
      } else {
        void this.search(text);
      }
    } else if (event.key === "Escape" && text !== "") {
      this.type("");
    }
    event.stopPropagation();
  };

  /** Search; what an overtaken search brings is dropped. */
  private async search(text: string): Promise<void> {
    const { panel, rank, epoch, onMatch } = this.props;
    const mine = ++this.asked;
    const set = (state: Partial<ISearchState>) => {
      if (mine === this.asked) {
        this.setState({ ...NONE, ...state });
      }
    };
    try {
      const { matches, more } = await panel.feed.search(panel.model.id, rank, text, epoch);
      // The last one is the first to be shown: news are at the end.
      set({ searched: text, matches, more, at: matches.length - 1 });
      if (mine === this.asked) {
        onMatch(matches[matches.length - 1] ?? null);
      }
    } catch (error) {
      set({ trouble: reason(error) });
    }
  }

  private step(by: number): void {
    const { matches, at } = this.state;
    const next = (at + by + matches.length) % matches.length;
    this.setState({ at: next });
    this.props.onMatch(matches[next]);
  }

  private asked = 0;
}
