// Commands for the palette, menus and keys. They are about a job: the one that is given, pointed
// at, focused, in front, or selected in the sidebar.

import type { JupyterFrontEnd } from "@jupyterlab/application";
import { Clipboard, Notification } from "@jupyterlab/apputils";
import type { ICommandPalette } from "@jupyterlab/apputils";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { CommandRegistry } from "@lumino/commands";
import type { ReadonlyPartialJSONObject } from "@lumino/coreutils";

import { lifebuoyIcon } from "./icons";
import type { BoardRow } from "./protocol";
import type { SidebarWidget } from "./sidebar/widget";
import { isFinal } from "./states";
import type { Steering } from "./steering";
import { OPEN_JOB } from "./tabs";
import type { JobTabs } from "./tabs";
import type { IFeed, IShellActions } from "./tokens";

/** Where all commands are in the palette. */
const CATEGORY = "resilient_nb";

/** What the commands act on. */
export interface ICommandsOptions {
  readonly app: JupyterFrontEnd;
  readonly feed: IFeed;
  readonly actions: IShellActions;
  readonly steering: Steering;
  readonly tabs: JobTabs;
  readonly sidebar: SidebarWidget;
  readonly palette: ICommandPalette | null;
  readonly trans: TranslationBundle;
}

type Args = ReadonlyPartialJSONObject;

/** A command about a job. `can` is asked whether it may be done; left out, it always may. */
interface ICommand {
  readonly id: string;
  readonly label: string;
  readonly caption: string;
  /** Whether it may be done to a job that isn't listed any more. */
  readonly old?: boolean;
  can?(row: BoardRow): boolean;
  run(job: string, row: BoardRow | undefined): unknown;
}

/** Add all commands, and put them into the palette. Menus and keys are in the schema. */
export function addCommands(options: ICommandsOptions): void {
  const { app, feed, palette, sidebar, trans } = options;
  const { commands } = app;
  const focus = followFocus();
  const about = (args: Args) => jobOf(options, focus, args);
  const rowOf = (job: string) => feed.board.rows.find(row => row.id === job);

  commands.addCommand("resilient-nb:show-sidebar", {
    label: trans.__("Show Jobs"),
    caption: trans.__("Show the sidebar with all jobs and the cluster"),
    icon: lifebuoyIcon,
    describedBy: { args: { type: "object", properties: {} } },
    execute: () => app.shell.activateById(sidebar.id)
  });
  for (const command of ["resilient-nb:show-sidebar", REFRESH]) {
    palette?.addItem({ command, category: CATEGORY });
  }

  for (const { id, label, caption, old, can, run } of jobCommands(options)) {
    commands.addCommand(id, {
      label: args => (args["isContextMenu"] ? label : labelled(trans, label, about(args))),
      caption,
      describedBy: { args: JOB_ARGS },
      isEnabled: args => {
        const job = about(args);
        const row = job === null ? undefined : rowOf(job);
        return job !== null && (row === undefined ? old === true : can === undefined || can(row));
      },
      execute: args => {
        const job = about(args);
        return job === null ? undefined : run(job, rowOf(job));
      }
    });
    palette?.addItem({ command: id, category: CATEGORY });
  }
}

/** Add the command that connects anew. */
export function addRefresh(
  commands: CommandRegistry,
  trans: TranslationBundle,
  refresh: () => void
): void {
  commands.addCommand(REFRESH, {
    label: trans.__("Refresh Jobs"),
    caption: trans.__("Connect to the cluster anew, and ask for everything again"),
    describedBy: { args: { type: "object", properties: {} } },
    execute: refresh
  });
}

const REFRESH = "resilient-nb:refresh";

const JOB_ARGS = {
  type: "object",
  properties: { job: { type: "string", description: "The job's id; left out, the one in focus" } }
};

function jobCommands(options: ICommandsOptions): readonly ICommand[] {
  const { actions, steering, tabs, trans } = options;
  return [
    {
      id: OPEN_JOB,
      label: trans.__("Open Job"),
      caption: trans.__("Open the job in a tab of its own"),
      old: true,
      run: job => tabs.open(job)
    },
    {
      id: "resilient-nb:go-to-cell",
      label: trans.__("Go to Cell"),
      caption: trans.__("Go to the cell that has submitted the job"),
      can: row => row.cell_id !== "",
      run: (_, row) => row && actions.goToCell?.(row.notebook, row.cell_id)
    },
    {
      id: "resilient-nb:copy-ref",
      label: trans.__("Copy Reference"),
      caption: trans.__("Copy what names the job's run in code and commands"),
      old: true,
      run: (job, row) => copy(trans, row?.run ?? job.replace(/#.*/, ""))
    },
    {
      id: "resilient-nb:compare",
      label: trans.__("Compare Checkpoints"),
      caption: trans.__("Choose two of the run's checkpoints in its timeline, and see what differs"),
      old: true,
      run: job => tabs.open(job).content.compare()
    },
    {
      id: "resilient-nb:cancel",
      label: trans.__("Cancel Job…"),
      caption: trans.__("Stop the job at a checkpoint"),
      can: row => !isFinal(row.state),
      run: job => steering.cancel(job)
    },
    {
      id: "resilient-nb:restart",
      label: trans.__("Restart Job…"),
      caption: trans.__("End a stuck job's ranks at once and start it again from its head"),
      can: row => row.state === "running" || row.state === "starting",
      run: job => steering.restart(job)
    },
    {
      id: "resilient-nb:resume",
      label: trans.__("Resume Run…"),
      caption: trans.__("Go on from the run's head"),
      can: row => isFinal(row.state),
      run: job => steering.resume(job)
    },
    {
      id: "resilient-nb:rollback",
      label: trans.__("Roll Back Run…"),
      caption: trans.__("Move the run's head to another checkpoint"),
      can: row => isFinal(row.state),
      run: job => steering.rollback(job)
    },
    {
      id: "resilient-nb:retry",
      label: trans.__("Retry Job…"),
      caption: trans.__("Run a failed job again whatever was decided, or end its pause"),
      can: row => row.state === "failed" || (row.state === "queued" && row.attempts > 0),
      run: job => steering.retry(job)
    },
    {
      id: "resilient-nb:fork",
      label: trans.__("Fork Run…"),
      caption: trans.__("Begin a new run at one of the run's checkpoints"),
      run: job => steering.fork(job)
    },
    {
      id: "resilient-nb:tag",
      label: trans.__("Tag Checkpoint…"),
      caption: trans.__("Name one of the run's checkpoints, so that it is kept"),
      run: job => steering.tag(job)
    }
  ];
}

/** Return the job that a command is about. */
function jobOf({ app, sidebar, tabs }: ICommandsOptions, focus: IFocus, args: Args): string | null {
  const given = args["job"];
  if (typeof given === "string" && given !== "") {
    return given;
  }
  const pointed = args["isContextMenu"]
    ? app.contextMenuHitTest(node => node.dataset["job"] !== undefined)
    : undefined;
  return pointed?.dataset["job"] ?? focus.job ?? tabs.current ?? sidebar.selected;
}

interface IFocus {
  /** The job in whose panel or list the focus is, or was before a menu was opened. */
  job: string | null;
}

function followFocus(): IFocus {
  const focus: IFocus = { job: null };
  document.addEventListener("focusin", ({ target }) => {
    if (target instanceof Element && target.closest(MENUS) === null) {
      focus.job = target.closest<HTMLElement>("[data-job]")?.dataset["job"] ?? null;
    }
  });
  return focus;
}

const MENUS = ".lm-Menu, .lm-MenuBar, .lm-CommandPalette, .jp-Dialog";

function labelled(trans: TranslationBundle, label: string, job: string | null): string {
  return job === null ? label : trans.__("%1 (%2)", label, job);
}

function copy(trans: TranslationBundle, reference: string): void {
  Clipboard.copyToSystem(reference);
  Notification.info(trans.__("%1 is in the clipboard.", reference), { autoClose: 2000 });
}
