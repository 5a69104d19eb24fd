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
const READ = 8000;

/** JupyterLab cuts off what a notification has more, in characters. */
const MOST = 140;

/** Which parts of JupyterLab there are. */
export interface IShell {
  readonly trans: TranslationBundle;
  readonly documents: IDocumentManager | null;
  readonly notebooks: INotebookTracker | null;
  openJob(id: string): void;
}

/** Return what can be done in this application. */
export function shellActions(shell: IShell): IShellActions {
  const { documents, notebooks, trans } = shell;
  return {
    confirm: (title, body, accept) => confirm(trans, title, body, accept),
    askName: (title, label, suggestion) => askName(trans, title, label, suggestion),
    openJob: id => shell.openJob(id),
    goToCell:
      documents === null
        ? undefined
        : (notebook, cellId) =>
            void told(trans, goToCell(documents, notebooks, trans, notebook, cellId)),
    insertCode: code => void told(trans, insertCode(shell, code))
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
async function told(trans: TranslationBundle, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    tell(trans, "error", reason(error));
  }
}

/** Tell what came of something, all of it: in a dialog if a notification has no room for it. */
export function tell(trans: TranslationBundle, kind: "success" | "error", text: string): void {
  if (text.length <= MOST) {
    Notification[kind](text, { autoClose: READ });
    return;
  }
  const title = kind === "error" ? trans.__("It didn't work") : trans.__("Done");
  const buttons = [Dialog.okButton({ label: trans.__("OK") })];
  void showDialog({ title, body: text, buttons });
}
