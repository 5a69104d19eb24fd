"""The verb `verify`: what it looks at, what it says, and its exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from resilient_nb import cli, connection
from resilient_nb.core import events as ev
from resilient_nb.core import lookup
from resilient_nb.core.scrubbing import Damage, VerifyReport, VerifyRow
from resilient_nb.core.views import CheckpointView, RunView, checkpoint_view, run_view
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.execute import Unsound, execute
from resilient_nb.notebook.options import parse_line
from resilient_nb.notebook.verify_reports import verify_html, verify_text
from tests.unit.stored_home import StoredHome

FIRST, SECOND, THIRD, FORKED = (
    "digits/00000010-e1", "digits/00000020-e1", "digits/00000030-e1", "fork/00000040-e1",
)  # fmt: skip


class Plane:
    """A client that knows what a home's journal does."""

    def __init__(self, home: StoredHome) -> None:
        self.home = home
        self.asked = 0

    def runs(self, name: str | None = None) -> list[RunView]:
        self.asked += 1
        world = self.home.world
        runs = [lookup.run(world, name)] if name else list(reversed(world.runs.values()))
        return [run_view(world, run, self.home.settings.runs) for run in runs]

    def resolve(self, ref: str) -> CheckpointView:
        checkpoint = lookup.checkpoint(self.home.world, ref)
        run = self.home.world.runs[checkpoint.run]
        return checkpoint_view(run, checkpoint, self.home.settings.runs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StoredHome:
    home = StoredHome(tmp_path_factory.mktemp("trained") / "home")
    home.train(10, 20, 30)
    home.finish()
    home.story.run("fork", SECOND)
    home.train(40, run="fork")
    return home


@pytest.fixture
def home(trained: StoredHome, tmp_path: Path) -> StoredHome:
    return trained.moved(tmp_path / "home")


@pytest.fixture
def plane(home: StoredHome, monkeypatch: pytest.MonkeyPatch) -> Plane:
    plane = Plane(home)
    monkeypatch.setattr(connection, "current", lambda: plane)
    return plane


def damage(home: StoredHome, identity: str, name: str = "model/weight") -> None:
    """Flip a bit of a tensor that only this checkpoint has, and what follows may refer to."""
    path = Path(home.settings.runs) / identity / name / "c.0.0"
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)


def found(line: str) -> VerifyReport:
    report = execute(parse_line(line), shell=object()).data
    assert isinstance(report, VerifyReport)
    return report


def refs(report: VerifyReport) -> list[str]:
    return [row.ref for row in report.checkpoints]


@pytest.mark.parametrize(("line", "wanted"), [
    ("verify digits", ["digits@10", "digits@20", "digits@30"]),
    ("verify fork", ["fork@40"]),
    ("verify digits@20", ["digits@20"]),
    ("verify --all", ["digits@10", "digits@20", "digits@30", "fork@40"]),
])  # fmt: skip
def test_what_is_asked_for_is_verified(plane: Plane, line: str, wanted: list[str]) -> None:
    report = found(line)
    assert (refs(report), report.damaged) == (wanted, ())
    assert report.nbytes > 100_000
    assert f"{len(wanted)} checkpoint" in verify_text(report)


def test_what_is_damaged_is_named_with_a_way_back(
    plane: Plane, home: StoredHome, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(home, THIRD)
    assert cli.main(["verify", "digits"]) == 1
    out, err = capsys.readouterr()
    assert err == "digits@10: whole\ndigits@20: whole\ndigits@30: 1 problem\n"
    said = " ".join(out.split())
    assert "1 of 3 checkpoints damaged" in said
    assert (
        f"digits@30 is damaged: - model/weight doesn't match its checksum ({THIRD}/model/weight/"
        in said
    )
    assert "newest good one before it is digits@20: resilient rollback digits@20" in said
    assert "%resilient" not in out


def test_ancestors_are_verified_until_one_is_whole(plane: Plane, home: StoredHome) -> None:
    for identity in (SECOND, THIRD):
        damage(home, identity)
    [row] = found("verify digits@30").checkpoints
    assert row.good_before == "digits@10"
    # Across forks, too.
    damage(home, FORKED)
    [row] = found("verify fork").checkpoints
    assert row.good_before == "digits@10"


def test_what_all_share_leaves_none_that_is_whole(
    plane: Plane, home: StoredHome, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(home, FIRST, "model/frozen")
    report = found("verify --all")
    assert len(report.damaged) == 4
    assert {row.good_before for row in report.damaged} == {None}
    assert {row.damage[0].key for row in report.damaged} == {f"{FIRST}/model/frozen/c.0.0"}
    assert "None before it is whole: %resilient restore URL" in " ".join(
        verify_text(report).split()
    )


def test_json_is_the_report_and_fits_the_schema(
    plane: Plane, home: StoredHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", "digits", "--json"]) == 0
    assert capsys.readouterr().err == ""
    damage(home, THIRD)
    assert cli.main(["verify", "digits", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [bool(row["damage"]) for row in report["checkpoints"]] == [False, False, True]
    assert report["checkpoints"][2]["good_before"] == "digits@20"
    assert cli.main(["schema"]) == 0
    definition = json.loads(capsys.readouterr().out)["$defs"]["VerifyReport"]
    assert set(report) == set(definition["properties"])


def test_a_notebook_shows_it_and_goes_on(plane: Plane, home: StoredHome) -> None:
    damage(home, THIRD)
    shown = execute(parse_line("verify digits"), shell=object())
    assert "%resilient rollback digits@20" in shown.html
    with pytest.raises(Unsound):
        execute(parse_line("verify digits"))


def test_what_was_dropped_meanwhile_is_no_damage(plane: Plane, home: StoredHome) -> None:
    runs = plane.runs

    def late(name: str | None = None) -> list[RunView]:
        found = runs(name)
        if plane.asked == 2:  # when it has been told what there is
            home.story.then(ev.CheckpointsDropped(home.story.now, "digits", (FIRST,)))
            (Path(home.settings.runs) / FIRST / "zarr.json").unlink()
        return found

    plane.runs = late  # type: ignore[method-assign]
    report = found("verify digits")
    assert (refs(report), report.damaged) == (["digits@20", "digits@30"], ())


@pytest.mark.parametrize("line", ["verify", "verify digits --all"])
def test_it_must_be_said_what(line: str) -> None:
    with pytest.raises(InvalidRequest, match="Say what to verify"):
        parse_line(line)


def test_names_of_tensors_are_no_html_and_no_terminal_codes() -> None:
    odd = Damage("m/<b>\x1b[31m", "is missing", "a/b")
    many = tuple(Damage(f"m/{n}", "is missing", f"a/{n}") for n in range(20))
    rows = (VerifyRow("a@1", "a", "/a", (odd,)), VerifyRow("a@2", "b", "/b", many, "a@0"))
    report = VerifyReport(rows, 5, 0.1)
    assert "<b>\x1b" not in verify_html(report)
    assert "m/&lt;b&gt;" in verify_html(report)
    assert "\x1b" not in verify_text(report)
    assert "… and 10 more problems" in re.sub(r"\s+", " ", verify_text(report))
    assert "No checkpoint yet." in verify_text(VerifyReport((), 0, 0.0))
    empty: Any = VerifyReport((), 0, 0.0)
    assert empty.damaged == ()
