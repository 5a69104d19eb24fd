// What panels and the sidebar ask of JupyterLab: questions, tabs, cells.

import { Dialog, InputDialog, Notification, showDialog } from "@jupyterlab/apputils";
import type { IDocumentManager } from "@jupyterlab/docmanager";
import { NotebookActions } from "@jupyterlab/notebook";
import type { INotebookTracker } from "@jupyterlab/notebook";
import type { TranslationBundle } from "@jupyterlab/translation";

import { goToCell } from "./cells";
import { reason } from "./panel/context";
import type { IShellActions } from "./tokens";

/** Milliseconds in which a message can be read; it stays among the notifications. */
export const READ = 8000;

/** Which parts of JupyterLab there are. */
export interface IShell {
  readonly trans: TranslationBundle;
  readonly documents: IDocumentManager | null;
  readonly notebooks: INotebookTracker | null;
  openJob(id: string): void;
}

/** Return what can be done in this application. */
export function shellActions(shell: IShell): IShellActions {
  const { documents, trans } = shell;
  return {
    confirm: (title, body, accept) => confirm(trans, title, body, accept),
    askName: (title, label, suggestion) => askName(trans, title, label, suggestion),
    openJob: id => shell.openJob(id),
    goToCell:
      documents === null
        ? undefined
        : (notebook, cellId) => void told(goToCell(documents, trans, notebook, cellId)),
    insertCode: code => void told(insertCode(shell, code))
  };
}

/** Ask. Escape and Return mean no: what is asked for can't be undone. */
async function confirm(
  trans: TranslationBundle,
  title: string,
  body: string,
  accept: string
): Promise<boolean> {
  const answer = await showDialog({
    title,
    body,
    buttons: [
      Dialog.cancelButton({ label: trans.__("Cancel") }),
      Dialog.warnButton({ label: accept })
    ],
    defaultButton: 0
  });
  return answer.button.accept;
}

async function askName(
  trans: TranslationBundle,
  title: string,
  label: string,
  suggestion: string
): Promise<string | null> {
  const answer = await InputDialog.getText({
    title,
    label,
    text: suggestion,
    okLabel: trans.__("OK"),
    cancelLabel: trans.__("Cancel")
  });
  const name = answer.button.accept ? (answer.value ?? "").trim() : "";
  return name === "" ? null : name;
}

/** Put code into a new cell below the active one; without a notebook, into the clipboard. */
async function insertCode(shell: IShell, code: string): Promise<void> {
  const panel = shell.notebooks?.currentWidget;
  if (!panel?.isVisible || !panel.content.activeCell) {
    await navigator.clipboard.writeText(code);
    Notification.info(shell.trans.__("No notebook is in front: the code is in the clipboard."), {
      autoClose: READ
    });
    return;
  }
  const { content } = panel;
  NotebookActions.insertBelow(content);
  content.activeCell?.model.sharedModel.setSource(code);
  if (content.activeCell?.model.type !== "code") {
    NotebookActions.changeCellType(content, "code");
  }
  content.activate();
}

/** Tell why something didn't work. */
async function told(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    Notification.error(reason(error), { autoClose: READ });
  }
}
