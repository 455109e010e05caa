"""Several processes behind one address: each has its own listening socket, and the kernel spreads connections.

One shared socket would not do: the process that wakes first accepts all that wait. A process that
dies is replaced on its socket, so nobody is refused meanwhile; one that cannot start ends the rest.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

logger = logging.getLogger(__name__)
Serve = Callable[..., None]
_SETTLED_S = 3.0
"""A process that ends sooner than this, seconds, would end again: it is not replaced."""
_GRACE_S = 15.0
"""Time that the processes have to end by themselves, seconds."""


class _Worker:
    """One process, its socket, and when it was started."""

    def __init__(self, listener: socket.socket, process: BaseProcess) -> None:
        self.listener, self.process, self.started = listener, process, time.monotonic()


def supervise(listeners: list[socket.socket], serve: Serve, *arguments: object) -> int:
    """Run `serve(listener, *arguments)` in a process for each listener until SIGINT or SIGTERM; the exit status."""
    context = multiprocessing.get_context("spawn")  # not fork: threads and connections must not be shared

    def start(listener: socket.socket) -> _Worker:
        process = context.Process(target=serve, args=(listener, *arguments), name="studio-worker")
        process.start()
        return _Worker(listener, process)

    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {each: signal.signal(each, lambda *_: os.write(writing, b"!")) for each in (signal.SIGINT, signal.SIGTERM)}
    workers: list[_Worker] = []
    try:
        workers += map(start, listeners)
        while True:
            ready = wait([reading, *(worker.process.sentinel for worker in workers)])
            if reading in ready:
                return 0
            for at, worker in enumerate(workers):
                if worker.process.is_alive():
                    continue
                worker.process.join()
                if time.monotonic() - worker.started < _SETTLED_S:
                    logger.error("a worker ended with status %s right after its start", worker.process.exitcode)
                    return 1
                logger.error("a worker ended with status %s and is replaced", worker.process.exitcode)
                workers[at] = start(worker.listener)
    finally:
        _stop(workers)
        for each, handler in before.items():
            signal.signal(each, handler)
        os.close(reading)
        os.close(writing)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + _GRACE_S
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
