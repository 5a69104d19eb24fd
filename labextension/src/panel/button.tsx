// A button that says why it can't be pressed, and can be found with the keyboard all the same.

import { Component } from "preact";

import { oneLine } from "../format";
import type { IPanel } from "./context";

export interface IButtonProps {
  readonly panel: IPanel;
  readonly name: string;
  /** What it does. */
  readonly title?: string;
  /** Why it can't be done now; "" or left out if it can. */
  readonly not?: string;
  readonly act: () => unknown;
}

/** It follows by itself whether the panel waits for an answer. */
export class Button extends Component<IButtonProps> {
  componentDidMount(): void {
    this.props.panel.doing.changed.connect(this.redraw, this);
  }

  componentWillUnmount(): void {
    this.props.panel.doing.changed.disconnect(this.redraw, this);
  }

  render() {
    const { name, title, not } = this.why();
    return (
      <button
        type="button"
        class="rnb-Button"
        aria-disabled={not ? true : undefined}
        title={oneLine(not || title || "") || undefined}
        onClick={this.onClick}
      >
        {name}
      </button>
    );
  }

  private why() {
    const { panel, name, title, not } = this.props;
    const busy = panel.doing.verb ? panel.trans.__("Waiting for an answer.") : "";
    return { name, title, not: not || busy };
  }

  private redraw(): void {
    this.forceUpdate();
  }

  private onClick = () => {
    const { not } = this.why();
    if (not) {
      this.props.panel.doing.tell(not);
    } else {
      this.props.act();
    }
  };
}
