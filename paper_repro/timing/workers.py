"""Processes that share out a batch, so that peers that compute in Python get as many cores as everybody else.

They are part of what is timed: texts are sent to them and their answers received within the timed call.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import psutil

from paper_repro.timing.machine import Machine, Reading

Function = Callable[[Any], Any]


class Workers:
    """A function of a list, computed by processes that stay: each takes a part, and the answers come back in order.

    ``make`` is called once in every process and returns the function; it is pickled, the function is not.
    """

    def __init__(self, make: Callable[[], Function], processes: int) -> None:
        context = get_context("spawn")
        self._connections: list[Any] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, make), daemon=True).start()
            theirs.close()
            self._connections.append(ours)
        for connection in self._connections:
            _answer(connection)  # ready, or why not

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        """The function's value on each part of ``items``: at most as many parts as processes, none of them empty."""
        size = max(1, -(-len(items) // len(self._connections)))
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        busy = self._connections[: len(parts)]
        for connection, part in zip(busy, parts, strict=True):
            connection.send(part)
        return [_answer(connection) for connection in busy]

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()


class Family(Machine):
    """A machine on which the processes that this one started count as itself, not as others."""

    def read(self) -> Reading:
        """The counters now; finding the children takes some milliseconds."""
        reading, children = super().read(), 0.0
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                children += times.user + times.system
        return reading._replace(own_cpu_s=reading.own_cpu_s + children)


def _serve(connection: "Connection[Any, Any]", make: Callable[[], Function]) -> None:
    """Answer until the other side closes. One thread: the processes are the cores."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if "torch" in sys.modules:  # it has read the environment already
        sys.modules["torch"].set_num_threads(1)

    try:
        function: Function | None = make()
        answer: Any = None
    except Exception as error:
        function, answer = None, error
    with contextlib.suppress(EOFError, KeyboardInterrupt, OSError):
        while True:
            connection.send(answer)
            part = connection.recv()
            try:
                answer = function(part) if function else answer
            except Exception as error:
                answer = error


def _answer(connection: Any) -> Any:
    try:
        answer = connection.recv()
    except EOFError:
        raise RuntimeError("a process that shares the work of a peer has died") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
