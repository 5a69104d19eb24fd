"""What the README says can be typed, can."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from resilient_nb.control import policy_file
from resilient_nb.core.policy import Policy
from resilient_nb.notebook.options import CellOptions, parse_cell_line, parse_line
from resilient_nb.notebook.verbs import VERBS

README = (Path(__file__).parents[2] / "README.md").read_text()


def rows(heading: str) -> list[str]:
    """Return the first cells of the table under a heading."""
    table = README.partition(f"| {heading} | |\n| --- | --- |\n")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.split("\n")]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def toml_below(heading: str) -> str:
    return README.partition(f"\n{heading}\n")[2].partition("```toml\n")[2].partition("```")[0]


def test_the_alerts_are_read() -> None:
    policy = policy_file.parse_policy(toml_below("## Alerts, measures, traces"), "README.md")
    assert {rule.name for rule in policy.alerts} == {"loss is high", "data waits"}
    assert {"ops", "mail", "page"} <= set(policy.channels)
    assert policy.routes


def test_the_policy_file_is_the_one_that_is_read() -> None:
    text = toml_below("### The policy file")
    blocks = re.findall(r"(?:^    .*\n|\n)+", policy_file.__doc__ or "", re.MULTILINE)
    assert text.strip() == textwrap.dedent(max(blocks, key=len)).strip()
    policy, plain = policy_file.parse_policy(text, "README.md"), Policy()
    assert policy.group_of("ada") == "vision"
    for name in ("half_life", "preemption", "grace", "high_budget", "trust_claims"):
        assert getattr(policy, name) == getattr(plain, name)


@pytest.mark.parametrize("row", rows("option of a cell"))
def test_every_option_of_the_table_exists(row: str) -> None:
    line = codes(row)[0]
    elastic = "" if "--workers" in line or "--scale-lr" not in line else " --workers 2:8"
    assert isinstance(parse_cell_line(line + elastic), CellOptions)


def test_every_verb_is_in_the_table_and_the_table_has_no_others() -> None:
    named = {code.split()[0] for row in rows("verb") for code in codes(row)}
    assert named == set(VERBS)


def test_what_is_shown_to_be_typed_parses() -> None:
    lines = re.findall(r"^ *%resilient (\w.*?)(?: +#.*)?$", README, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        assert parse_line(line).verb in VERBS
    for line in re.findall(r"^ *%%resilient (.+)$", README, re.MULTILINE):
        assert isinstance(parse_cell_line(line), CellOptions)
