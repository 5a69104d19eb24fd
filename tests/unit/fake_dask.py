"""As much of a Dask scheduler as keeping tasks and gangs apart needs: a few dicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributed import Status


@dataclass(eq=False)
class FakeWorker:
    """A `WorkerState`."""

    address: str
    name: str = ""
    status: Status = Status.running
    processing: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sent:
    """What was sent to one worker."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def send(self, message: dict[str, Any]) -> None:
        """Keep a message."""
        self.messages.append(message)


class FakeScheduler:
    """As much of Dask's as the cordon uses; `running` is where ordinary tasks may go."""

    def __init__(self) -> None:
        self.workers: dict[str, FakeWorker] = {}
        self.tasks: dict[str, Any] = {}
        self.extensions: dict[str, Any] = {}
        self.handlers: dict[str, Any] = {}
        self.stream_comms: dict[str, Sent] = {}
        self.retired: list[Any] = []
        self.stream_handlers: dict[str, Callable[..., None]] = {
            "worker-status-change": self.status_change,
            "steal-response": lambda **_: None,
        }

    @property
    def running(self) -> set[str]:
        """The addresses of workers that take ordinary tasks."""
        return {a for a, ws in self.workers.items() if ws.status is Status.running}

    def add(self, *addresses: str) -> None:
        """Let workers join."""
        for address in addresses:
            self.workers[address] = FakeWorker(address, f"name-of-{address}")
            self.stream_comms[address] = Sent()

    def run_task(self, key: str, address: str) -> None:
        """Send a task to a worker."""
        worker = self.workers[address]
        worker.processing[key] = object()
        self.tasks[key] = type("Task", (), {"processing_on": worker})()

    def status_change(self, worker: str, status: str, stimulus_id: str) -> None:
        """A worker says its own status."""
        self.handle_worker_status_change(status, worker, stimulus_id)

    def handle_worker_status_change(self, status: Any, worker: Any, stimulus_id: str) -> None:
        """Set a worker's status, given by name or value."""
        ws = self.workers[worker] if isinstance(worker, str) else worker
        ws.status = Status[status] if isinstance(status, str) else status

    async def retire_workers(self, **options: Any) -> dict[str, Any]:
        """Retire whoever is given by address; one called "stuck" can't be."""
        self.retired.append(options)
        gone = [a for a in options["workers"] or () if a in self.workers and a != "stuck"]
        return {address: self.workers.pop(address) for address in gone}
