// A part of a panel with a heading that folds it.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

export interface ISectionProps {
  readonly name: string;
  readonly title: string;
  /** What is worth knowing of it when it is folded. */
  readonly summary?: string;
  readonly open: boolean;
  /** Shown by something else: it is opened then. Another number each time. */
  readonly called?: number;
  readonly children: () => ComponentChildren;
}

/** Its content is there only while it is open. */
export function Section({ name, title, summary, open, called = 0, children }: ISectionProps) {
  const [state, setState] = useState({ open, called });
  const shown = state.open || called !== state.called;
  return (
    <details
      class={`rnb-Section rnb-Section-${name}`}
      open={shown}
      onToggle={e => {
        const now = e.currentTarget.open;
        if (now !== shown) {
          setState({ open: now, called });
        } else if (called !== state.called) {
          setState({ open: shown, called });
        }
      }}
    >
      <summary>
        <span class="rnb-Section-title">{title}</span>
        {summary ? <span class="rnb-quiet">{summary}</span> : null}
      </summary>
      {shown ? children() : null}
    </details>
  );
}
