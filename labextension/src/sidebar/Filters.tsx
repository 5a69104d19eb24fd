// What decides which jobs are listed: a search box, whose jobs, and in which states.

import type { TranslationBundle } from "@jupyterlab/translation";

import { CHIPS, toggled } from "./filter";
import type { Chip, IFilter, Scope } from "./filter";

export interface IFiltersProps {
  readonly filter: IFilter;
  readonly counts: Readonly<Record<Chip, number>>;
  readonly trans: TranslationBundle;
  onChange(filter: IFilter): void;
}

export function Filters({ filter, counts, trans, onChange }: IFiltersProps) {
  const scopes: readonly [Scope, string][] = [
    ["mine", trans.__("Mine")],
    ["groups", trans.__("My groups")],
    ["everyone", trans.__("Everyone")]
  ];
  return (
    <div class="rnb-Filters">
      <input
        class="rnb-Filters-text jp-mod-styled"
        type="text"
        spellcheck={false}
        aria-label={trans.__("Filter jobs")}
        placeholder={trans.__("Filter jobs")}
        value={filter.text}
        onInput={event => onChange({ ...filter, text: event.currentTarget.value })}
      />
      <div class="rnb-Scopes" role="radiogroup" aria-label={trans.__("Whose jobs")}>
        {scopes.map(([scope, label]) => (
          <label key={scope} class="rnb-Scope">
            <input
              type="radio"
              name="resilient-nb-scope"
              checked={filter.scope === scope}
              onChange={() => onChange({ ...filter, scope })}
            />
            {label}
          </label>
        ))}
      </div>
      <div class="rnb-Chips" role="group" aria-label={trans.__("States")}>
        {CHIPS.map(chip => (
          <button
            key={chip}
            type="button"
            class="rnb-Chip"
            data-chip={chip}
            aria-pressed={filter.chips.has(chip)}
            onClick={() => onChange({ ...filter, chips: toggled(filter.chips, chip) })}
          >
            {chipLabel(chip, trans)} <span class="rnb-Chip-count">{String(counts[chip])}</span>
          </button>
        ))}
      </div>
    </div>
  );
}

function chipLabel(chip: Chip, trans: TranslationBundle): string {
  switch (chip) {
    case "running":
      return trans.__("Running");
    case "queued":
      return trans.__("Queued");
    case "failed":
      return trans.__("Failed");
    case "done":
      return trans.__("Done");
  }
}
