// A panel that can't be drawn says so: a notebook's file may hold anything, however it came there.

import type { TranslationBundle } from "@jupyterlab/translation";
import { Component } from "preact";
import type { ComponentChildren } from "preact";

export interface IGuardProps {
  readonly trans: TranslationBundle;
  /** Another number when the job was told anew: then it is tried again. */
  readonly version: number;
  caught(): void;
  readonly children: ComponentChildren;
}

export class Guard extends Component<IGuardProps, { readonly failed: number | null }> {
  state = { failed: null };

  componentDidCatch(error: unknown): void {
    console.error("resilient_nb:", error);
    // After its parts are gone.
    this.setState({ failed: this.props.version }, () => this.props.caught());
  }

  render() {
    const { trans, version, children } = this.props;
    if (this.state.failed !== version) {
      return children;
    }
    return (
      <p class="rnb-Broken" role="alert">
        {trans.__("What is known of this job can't be shown. It comes with news of its cluster.")}
      </p>
    );
  }
}
