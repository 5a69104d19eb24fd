// Names that users give to runs and tags: the rules of core/names.py, said while they type. Pure.

import type { TranslationBundle } from "@jupyterlab/translation";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Return what is wrong with a name for a run; "" if it is right. */
export function runProblem(trans: TranslationBundle, name: string): string {
  if (NAME.test(name)) {
    return "";
  }
  return trans.__(
    "Use 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit."
  );
}

/** Return what is wrong with a name for a fork; "" if it is right. `known` are names of runs. */
export function forkProblem(
  trans: TranslationBundle,
  name: string,
  known: ReadonlySet<string>
): string {
  return known.has(name)
    ? trans.__("Run %1 exists already: fork under another name.", name)
    : runProblem(trans, name);
}

/** Return what is wrong with a tag; "" if it is right. */
export function tagProblem(trans: TranslationBundle, tag: string): string {
  return /^\d+$/.test(tag)
    ? trans.__("%1 would read as a step: give it a letter.", tag)
    : runProblem(trans, tag);
}

/** Return a name for a fork that none of the known runs has: `digits-2`. */
export function forkName(run: string, known: ReadonlySet<string>): string {
  const stem = run.slice(0, 56);
  let number = 2;
  while (known.has(`${stem}-${number}`)) {
    number += 1;
  }
  return `${stem}-${number}`;
}
