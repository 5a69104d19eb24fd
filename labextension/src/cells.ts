// The way to the cell that has submitted a job.

import { PageConfig } from "@jupyterlab/coreutils";
import type { IDocumentManager } from "@jupyterlab/docmanager";
import { NotebookPanel } from "@jupyterlab/notebook";
import type { INotebookTracker } from "@jupyterlab/notebook";
import type { TranslationBundle } from "@jupyterlab/translation";

import { served } from "./served";

/** Open a notebook at one of its cells. Rejects with a sentence if it isn't there any more. */
export async function goToCell(
  documents: IDocumentManager,
  notebooks: INotebookTracker | null,
  trans: TranslationBundle,
  notebook: string,
  cellId: string
): Promise<void> {
  let path = served(notebook, PageConfig.getOption("serverRoot"));
  if (path === null) {
    throw new Error(
      trans.__("%1 isn't in the folder that this Jupyter server shows. Open it there.", notebook)
    );
  }
  try {
    await documents.services.contents.get(path, { content: false });
  } catch {
    // Renamed, it may still be open.
    const renamed = notebooks?.find(({ content }) =>
      content.widgets.some(cell => cell.model.id === cellId)
    );
    if (renamed === undefined) {
      throw new Error(
        trans.__(
          "There is no notebook %1 any more: it was moved or deleted. If it was moved, open it first.",
          path
        )
      );
    }
    path = renamed.context.path;
  }
  const panel = documents.openOrReveal(path);
  if (!(panel instanceof NotebookPanel)) {
    throw new Error(trans.__("%1 can't be opened as a notebook.", path));
  }
  await panel.context.ready;
  await panel.revealed;
  const { content } = panel;
  const index = content.widgets.findIndex(cell => cell.model.id === cellId);
  const cell = content.widgets[index];
  if (cell === undefined) {
    throw new Error(trans.__("The cell isn't in %1 any more: it was deleted.", path));
  }
  content.mode = "command";
  content.deselectAll();
  content.activeCellIndex = index;
  await content.scrollToCell(cell, "center");
  content.activate();
}
