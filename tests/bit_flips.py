"""Random damage to stored checkpoints: `make crash`, or with a seed.

One object of a checkpoint has a bit flipped, is cut, emptied, made longer or removed; it may be a
chunk, a pack, a document, the manifest, or metadata of an array or group. `verify` must name it,
and a reader that relies on it must say so and never give other values.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from resilient_nb.errors import CheckpointError, CorruptCheckpoint
from resilient_nb.storage.contents import Piece, contents
from resilient_nb.storage.local import LocalStore
from resilient_nb.storage.objects import join
from resilient_nb.storage.opening import open_at
from resilient_nb.storage.verify import Problem, verify
from resilient_nb.testing.faults import plant
from tests.crash_points import Saved, Scene, problem

KINDS = ("bit flip", "bit flip", "bit flip", "cut", "emptied", "longer", "removed")


@dataclass
class Tally:
    """What came of the points; `of` counts the kinds of objects."""

    points: Counter[str] = field(default_factory=Counter)
    of: Counter[str] = field(default_factory=Counter)
    said: int = 0  # by a reader, too
    missed: list[str] = field(default_factory=list)


def damaged(path: Path, random: Random) -> str:
    """Damage a file; return how."""
    data, kind = bytearray(path.read_bytes()), random.choice(KINDS)
    match kind:
        case "bit flip":
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        case "cut":
            del data[random.randrange(len(data)) :]
        case "emptied":
            data.clear()
        case "longer":
            data += bytes(random.randint(1, 20))
    path.write_bytes(data)
    if kind == "removed":
        path.unlink()
    return kind


def run(points: int, seed: int) -> Tally:
    """Damage so many objects of a checkpoint that has some of its arrays elsewhere."""
    random, tally = Random(seed), Tally()
    scene = Scene(seed)
    try:
        plant(scene.before, scene.folder)
        store, saved = LocalStore(scene.folder), scene.last
        pieces = contents(saved.manifest)
        pieces[join(saved.id, "zarr.json")] = Piece("the manifest")
        for _ in range(points):
            key = random.choice(sorted(pieces))
            before = store.read(key)
            kind = damaged(store.path(key), random)
            after = store.read(key) if store.path(key).exists() else b""
            relied = _relied(key, pieces[key], before, after)
            wrong = _missed(store, saved, key, relied, tally)
            if after != before:
                tally.points[kind] += 1
                tally.of[_sort(key)] += 1
                tally.missed += [f"{kind} of {key}: {wrong}"] if wrong else []
            store.path(key).write_bytes(before)
    finally:
        shutil.rmtree(scene.folder)
    return tally


def _relied(key: str, piece: Piece, before: bytes, after: bytes) -> bool:
    """Whether readers of ours rely on what was damaged: of packs, they read what they need."""
    if piece.parts:
        return any(before[at : at + n] != after[at : at + n] for at, n, _ in piece.parts)
    return _sort(key) in ("chunk", "document")


def _missed(store: LocalStore, saved: Saved, key: str, relied: bool, tally: Tally) -> str:
    """Return what nobody has noticed, "" if all was."""
    found = verify(store, saved.id)
    if not any(wrong.key == key and _names(wrong, saved) for wrong in found):
        return f"verify says {[str(wrong) for wrong in found]}"
    wrong = problem(store, saved, must=True)
    tally.said += bool(wrong)
    if "other values" in wrong:
        return "a reader gives other values"
    if relied and not wrong:
        return "a reader doesn't say so"
    return _unnamed(store, saved) if wrong else ""


def _names(wrong: Problem, saved: Saved) -> bool:
    names = (*saved.values, *saved.documents, "the manifest", "group ", "model", "optimizer")
    return wrong.checkpoint == saved.id and any(name in wrong.what for name in (*names, "rank-0"))


def _unnamed(store: LocalStore, saved: Saved) -> str:
    """Return what a reader leaves unsaid: it names the checkpoint, and what is damaged."""
    try:
        checkpoint = open_at(store, saved.id)
        checkpoint.read_many(saved.values)
        for name in saved.documents:
            checkpoint.document(name)
    except CorruptCheckpoint as error:
        text = str(error)
        names = (*saved.values, *saved.documents, "the manifest")
        good = error.checkpoint == saved.id and any(f"damaged: {name} " in text for name in names)
        return "" if good else f"a reader says {text!r}"
    except CheckpointError as error:  # what is removed or cut short was never committed
        return "" if "no committed checkpoint" in str(error) else f"a reader says {error}"
    return ""


def _sort(key: str) -> str:
    last = key.rpartition("/")[2]
    if last != "zarr.json":
        return "chunk"
    if key.split("/")[2:3] == ["state"] and len(key.split("/")) == 5:
        return "document"
    return {3: "manifest", 4: "group"}.get(len(key.split("/")), "array")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    began = time.monotonic()
    tally = run(given.points, given.seed)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in tally.points.most_common())
    sorts = ", ".join(f"{count:,} {sort}s" for sort, count in tally.of.most_common())
    total = sum(tally.points.values())
    print(f"{total:,} damaged objects with seed {given.seed}: {kinds}; of {sorts}")
    for text in tally.missed[:20]:
        print(f"  {text}")
    print(f"{tally.said:,} noticed by a reader, too; {time.monotonic() - began:.0f} s")
    print(f"{total - len(tally.missed):,} detected and named, {len(tally.missed)} missed")
    return 1 if tally.missed else 0


if __name__ == "__main__":
    sys.exit(main())
