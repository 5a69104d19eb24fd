"""A real S3 API server over HTTP, for tests: moto's, in a process of its own.

    with S3Server() as server:
        server.make_bucket("bucket")
        environment.update(server.environment)
        open_store("s3://bucket/prefix")

What is kept is in that process's memory. Requests are answered one at a time, so that a
conditional put is atomic, as S3 promises. Needs moto and Flask (the extra `test`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable
from types import TracebackType
from typing import Any

#: What tests sign with; moto believes everybody.
_KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}
#: Where the requests seen so far can be asked for (and are forgotten).
_SEEN = "/resilient-nb-seen"


class S3Server:
    """The server, from `with` to its end. It ends with the process that started it, too."""

    url: str
    """The endpoint, on loopback."""

    def __enter__(self) -> S3Server:
        command = [sys.executable, "-m", "resilient_nb.testing.s3", "--parent", str(os.getpid())]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError("The S3 server for tests didn't start; is moto installed?")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use the server."""
        return {**_KEYS, "AWS_ENDPOINT_URL": self.url}

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        # S3 itself: the library that the store is built on can't make buckets.
        request = urllib.request.Request(f"{self.url}/{name}", data=b"", method="PUT")
        with urllib.request.urlopen(request):
            pass

    def seen(self) -> list[dict[str, str]]:
        """Return the requests since the last call: method, path, query and some headers."""
        with urllib.request.urlopen(self.url + _SEEN) as reply:
            rows: list[dict[str, str]] = json.load(reply)
        return rows


class _App:
    """Moto's WSGI application, one request at a time, with a list of what was asked."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._seen: list[dict[str, str]] = []

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        with self._lock:
            if environ["PATH_INFO"] == _SEEN:
                rows, self._seen = self._seen, []
                start("200 OK", [("Content-Type", "application/json")])
                return [json.dumps(rows).encode()]
            self._seen.append(
                {
                    "method": environ["REQUEST_METHOD"],
                    "path": environ["PATH_INFO"],
                    "query": environ["QUERY_STRING"],
                    "range": environ.get("HTTP_RANGE", ""),
                    "if_none_match": environ.get("HTTP_IF_NONE_MATCH", ""),
                }
            )
            return list(self._app(environ, start))


def _serve(parent: int) -> None:
    import ctypes
    import logging
    import signal

    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import make_server

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with who started us
    if os.getppid() != parent:
        return
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = _App(create_backend_app("s3"))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    _serve(parser.parse_args().parent)
