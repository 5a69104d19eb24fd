// Whether what is shown is live; if not, since when, why, and what to do.

import type { TranslationBundle } from "@jupyterlab/translation";

import { clean } from "../format";
import { clock } from "../times";
import type { Contact } from "../tokens";

export interface INoticeProps {
  readonly contact: Contact;
  /** Whether anything is known from before. */
  readonly known: boolean;
  /** When contact was lost, in seconds since 1970; null if it never was there. */
  readonly lostAt: number | null;
  readonly now: number;
  readonly trans: TranslationBundle;
}

export function Notice({ contact, known, lostAt, now, trans }: INoticeProps) {
  if (contact.kind === "live") {
    return <div class="rnb-Notice" role="status" hidden />;
  }
  return (
    <div class="rnb-Notice" role="status" data-contact={contact.kind}>
      <Sentence contact={contact} never={lostAt === null} trans={trans} />
      {known && lostAt !== null && contact.kind !== "connecting" && (
        <p>{trans.__("What you see is how things were at %1.", clock(lostAt, now))}</p>
      )}
    </div>
  );
}

interface ISentenceProps {
  readonly contact: Contact;
  /** Whether it has never been live. */
  readonly never: boolean;
  readonly trans: TranslationBundle;
}

function Sentence({ contact, never, trans }: ISentenceProps) {
  if (contact.kind === "down" && contact.noCluster) {
    return (
      <>
        <p>{trans.__("No cluster is up. To start one, run this in a cell of a notebook:")}</p>
        <code>%load_ext resilient_nb</code>
        <code>%resilient up</code>
        <p>{trans.__("Or use one that is there:")}</p>
        <code>%resilient connect ADDRESS</code>
      </>
    );
  }
  if (contact.kind === "down") {
    return (
      <p>
        <span aria-hidden="true">▲ </span>
        {trans.__("The cluster doesn't answer; it is asked again and again.")} {clean(contact.why)}
      </p>
    );
  }
  if (contact.kind === "offline") {
    return (
      <>
        <p>
          <span aria-hidden="true">▲ </span>
          {trans.__("The Jupyter server doesn't answer. Your jobs go on without it.")}
        </p>
        {never && (
          <>
            <p>{trans.__("If that stays so, see whether it has resilient_nb:")}</p>
            <code>jupyter server extension list</code>
          </>
        )}
      </>
    );
  }
  return <p>{trans.__("Asking the Jupyter server for jobs…")}</p>;
}
