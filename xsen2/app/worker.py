"""A process that does jobs: told what to do on its standard input, it answers on its standard output, in lines of JSON.

It is kept from job to job, so that torch is imported once. It ends when whoever started it does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

__all__ = ["main"]

_EVERY = 0.2  # seconds between two lines about the same stage


class _Wire:
    """Lines out, from any thread; and whether the job is to be stopped."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock = out, threading.Lock()
        self.stop = threading.Event()
        self._last = (0.0, "")

    def send(self, **message: Any) -> None:
        with self._lock:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()

    def report(self, progress: Mapping[str, Any]) -> bool:
        when, stage = time.monotonic(), str(progress["stage"])
        if stage != self._last[1] or when - self._last[0] > _EVERY:
            self._last = (when, stage)
            self.send(kind="progress", progress=dict(progress))
        return not self.stop.is_set()


def main() -> None:
    """Do jobs until there is nobody to give any."""
    # What a library prints must not come between the lines.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    wire = _Wire(out)
    given: list[dict[str, Any]] = []
    more = threading.Condition()

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if message["kind"] == "cancel":
                wire.stop.set()
                continue
            with more:
                given.append(message)
                more.notify()
        os._exit(0)  # whoever gives jobs has ended: what is half done is finished by the next worker

    threading.Thread(target=listen, daemon=True).start()
    _warm()
    wire.send(kind="ready")
    while True:
        with more:
            more.wait_for(lambda: bool(given))
            message = given.pop(0)
        wire.stop.clear()
        _do(message, wire)


def _warm() -> None:
    """Import what every job needs, while nobody waits for it."""
    import xsen2.app.work
    import xsen2.networks.network  # noqa: F401  # torch, which the first block would import


def _do(message: dict[str, Any], wire: _Wire) -> None:
    from xsen2.app.schema import Job
    from xsen2.app.work import perform
    from xsen2.errors import Cancelled, Xsen2Error, printable
    from xsen2.sources.reading import secretless

    try:
        job = Job.model_validate(message["request"])
        result = perform(job, message["api"], Path(message["folder"]), wire.report)
    except Cancelled:
        wire.send(kind="cancelled")
    except (Xsen2Error, ImportError, OSError) as error:
        wire.send(kind="failed", message=printable(secretless(" ".join(str(error).split())), 1500))
    except MemoryError:
        wire.send(kind="failed", message="there is not enough memory for this: try a smaller area or fewer dates")
    except Exception as error:
        traceback.print_exc()
        name = type(error).__name__
        wire.send(kind="failed", message=f"something unforeseen went wrong ({name}): the server's log says more")
    else:
        wire.send(kind="done", result=result)


if __name__ == "__main__":
    main()
