// The sidebar: what it shows follows from its properties alone.

import type { TranslationBundle } from "@jupyterlab/translation";

import type { BoardRow } from "../protocol";
import type { ISidebarSections } from "../settings";
import { isFinal } from "../states";
import type { Contact, IBoardModel } from "../tokens";
import { Alerts } from "./Alerts";
import { Cluster } from "./Cluster";
import { Filters } from "./Filters";
import { JobList } from "./JobList";
import { Notice } from "./Notice";
import { listed } from "./filter";
import type { IFilter, IListed, IViewer } from "./filter";

export interface ISidebarProps {
  readonly board: IBoardModel;
  readonly contact: Contact;
  readonly lostAt: number | null;
  readonly viewer: IViewer;
  readonly filter: IFilter;
  readonly selected: string | null;
  readonly sections: ISidebarSections;
  readonly now: number;
  readonly trans: TranslationBundle;
  onFilter(filter: IFilter): void;
  onSelect(job: string): void;
  onOpen(job: string): void;
  onCell(row: BoardRow): void;
  onCancel(job: string): void;
}

export function Sidebar(props: ISidebarProps) {
  const { board, contact, filter, selected, sections, trans, onOpen } = props;
  const found = listed(board.rows, filter, props.viewer);
  const chosen = found.rows.find(row => row.id === selected);
  const { cluster, alerts } = board;
  return (
    <>
      <Notice
        contact={contact}
        known={cluster !== null}
        lostAt={props.lostAt}
        now={props.now}
        trans={trans}
      />
      <Filters filter={filter} counts={found.counts} trans={trans} onChange={props.onFilter} />
      <JobList
        rows={found.rows}
        selected={selected}
        now={props.now}
        trans={trans}
        onSelect={props.onSelect}
        onOpen={onOpen}
        onCell={props.onCell}
      />
      {found.rows.length === 0 && cluster !== null && <Nothing {...props} found={found} />}
      {chosen && <Buttons {...props} row={chosen} />}
      <div class="rnb-Below">
        {sections.cluster && cluster && (
          <Cluster
            cluster={cluster}
            shares={sections.shares ? board.shares : []}
            leases={board.leases}
            trans={trans}
            onOpen={onOpen}
          />
        )}
        {sections.alerts && alerts && (
          <Alerts alerts={alerts} now={props.now} trans={trans} onOpen={onOpen} />
        )}
      </div>
    </>
  );
}

/** Why the list is empty, and the way out. */
function Nothing({ board, filter, trans, found, onFilter }: ISidebarProps & { found: IListed }) {
  const everything: IFilter = { text: "", scope: "everyone", chips: new Set() };
  if (board.rows.length === 0) {
    return (
      <p class="rnb-Nothing">
        {trans.__("No jobs yet. To submit a cell as one, begin it with:")}{" "}
        <code>%%resilient NAME</code>
      </p>
    );
  }
  const said =
    filter.text || filter.chips.size > 0
      ? trans.__("No job matches.")
      : trans._n("%1 job, of other people.", "%1 jobs, all of other people.", found.others);
  return (
    <p class="rnb-Nothing">
      {said}{" "}
      <button type="button" class="rnb-Link" onClick={() => onFilter(everything)}>
        {trans.__("Show all")}
      </button>
    </p>
  );
}

/** What can be done with the selected job, for keyboards and for those who don't know the menu. */
function Buttons(props: ISidebarProps & { row: BoardRow }) {
  const { row, trans } = props;
  return (
    <div class="rnb-Buttons" role="toolbar" aria-label={trans.__("Selected job")}>
      <Button name={trans.__("Open")} can act={() => props.onOpen(row.id)} />
      <Button
        name={trans.__("Go to cell")}
        can={row.cell_id !== ""}
        act={() => props.onCell(row)}
      />
      <Button
        name={trans.__("Cancel…")}
        can={!isFinal(row.state)}
        act={() => props.onCancel(row.id)}
      />
    </div>
  );
}

// One that is disabled would lose the focus: a job may end while somebody is at its button.
const Button = ({ name, can, act }: { name: string; can: boolean; act: () => void }) => (
  <button
    type="button"
    class="rnb-Button"
    aria-disabled={!can}
    onClick={() => (can ? act() : undefined)}
  >
    {name}
  </button>
);
