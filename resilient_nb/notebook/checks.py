"""Values that don't go together: refused with the way out, or completed."""

from __future__ import annotations

from dataclasses import replace

from resilient_nb.core.model import Interval
from resilient_nb.core.names import Reference
from resilient_nb.errors import InvalidRequest
from resilient_nb.notebook.grammar import Parsed
from resilient_nb.notebook.values import Workers


def cell_makes_sense(parsed: Parsed) -> None:
    name, resume, fork = parsed["name"], parsed["resume"], parsed["fork"]
    if isinstance(resume, Reference) and isinstance(fork, Reference):
        raise InvalidRequest(
            f"--resume {resume} and --fork {fork} exclude each other: resume goes on with a run, "
            "fork begins a new one. Keep one of them."
        )
    if isinstance(resume, Reference) and name not in (None, resume.run):
        raise InvalidRequest(
            f"--resume {resume} goes on with the run {resume.run}, not {name}. "
            f"Use --fork {resume} to begin {name} from it."
        )
    if isinstance(fork, Reference) and name == fork.run:
        raise InvalidRequest(f"--fork {fork} begins a new run: give it another name than {name}.")
    _queueing_makes_sense(parsed)
    _bound_the_overhead(parsed)
    _spikes_are_looked_for(parsed)


def _queueing_makes_sense(parsed: Parsed) -> None:
    workers: Workers = parsed["workers"]
    rule, after = parsed["scale_lr"], parsed["after"]
    if parsed["inputs"] and not after:
        names = ",".join(parsed["inputs"])
        raise InvalidRequest(
            f"--in {names}: from which job? Name the one whose cell has --out {names} with "
            "--after JOB."
        )
    if rule is not None and not workers.most:
        raise InvalidRequest(
            f"--scale-lr {rule} is for gangs that grow and shrink: with --workers {workers} the "
            f"batch stays. Leave it out, or write --workers {workers}:{2 * workers.least}."
        )
    run = parsed["name"] or getattr(parsed["resume"], "run", None)
    if mine := next((job for job in after if job.partition("#")[0] == run), None):
        raise InvalidRequest(
            f"--after {mine}: the jobs of a run follow each other anyway, so {run} can't wait for "
            "itself. Leave it out, or give this cell another name."
        )


def _bound_the_overhead(parsed: Parsed) -> None:
    every, most = parsed["checkpoint_every"], parsed["checkpoint_overhead"]
    if most is None:
        return
    if not every.auto:
        raise InvalidRequest(
            f"--checkpoint-overhead {100 * most:g}% bounds what an interval of auto may cost, and "
            f"--checkpoint-every {_typed(every)} leaves nothing to choose. Keep one of them."
        )
    parsed["checkpoint_every"] = replace(every, overhead=most)


def _spikes_are_looked_for(parsed: Parsed) -> None:
    if parsed["spike"] and parsed["on_nan"] == "ignore":
        raise InvalidRequest(
            f"--spike {parsed['spike']:g} has losses looked at, and --on-nan ignore has nobody "
            "look: keep one of them."
        )


def _typed(every: Interval) -> str:
    return str(every) if every.steps is None else str(every.steps)


def certificates_fit(parsed: Parsed) -> None:
    given = [f for f in ("--ca-file", "--cert", "--key") if parsed[f[2:].replace("-", "_")]]
    address = parsed["address"]
    if given and not address.startswith(("tls://", "wss://")):
        place = address.rpartition("://")[2]
        raise InvalidRequest(
            f"{given[0]} is for an encrypted address, and {address} is none: connect to "
            f"tls://{place}, or leave it out."
        )
    if parsed["key"] and not parsed["cert"]:
        raise InvalidRequest(f"--key {parsed['key']} is the key of which --cert? Give both.")


def point_is_of_run(parsed: Parsed) -> None:
    run, point = parsed["run"], parsed["at"]
    if not isinstance(point, Reference):
        return
    if point.run not in ("", run):
        raise InvalidRequest(
            f"--at {point} is a checkpoint of {point.run}, not of {run}. "
            f"Use `fork {point} NEWNAME` to go on from another run."
        )
    parsed["at"] = Reference(str(run), point.step, point.tag)


def says_what_to_verify(parsed: Parsed) -> None:
    if (parsed["ref"] is None) != parsed["all"]:
        raise InvalidRequest(
            "Say what to verify: a run (verify digits), a checkpoint (verify digits@120), or all "
            "there are (verify --all)."
        )


def says_which_is_dead(parsed: Parsed) -> None:
    if parsed["requeue"] and parsed["job"] is None:
        raise InvalidRequest("--requeue which? Name the job: dead digits --requeue.")


def fork_is_new(parsed: Parsed) -> None:
    source, name = parsed["ref"], parsed["newname"]
    if isinstance(source, Reference) and source.run == name:
        raise InvalidRequest(f"A fork is a new run: give it another name than {name}.")


def chaos_fits(parsed: Parsed) -> None:
    what = parsed["what"]
    for name in ("seed", "every"):
        if parsed[name] is not None and what != "random":
            raise InvalidRequest(f"--{name} is for a random schedule: chaos JOB random --{name} …")
    if parsed["rank"] is not None and what in ("random", "report"):
        raise InvalidRequest(f"--rank is for one failure; {what} needs none.")
    if parsed["for"] is not None and what == "report":
        raise InvalidRequest("--for is how long something lasts; a report breaks nothing.")
