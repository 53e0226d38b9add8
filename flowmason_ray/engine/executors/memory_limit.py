"""Holds an attempt to the memory that its stage asks for (`resources.memory_mib`), so that one that leaks takes nobody with it.

Ray takes the number for scheduling only; without a limit, an attempt that grows without end takes its node down, or makes
Ray kill whatever it finds there. The worker's own memory is measured (what it shares with others, such as values in the object
store, does not count), against what it had when the attempt began. Too much first raises an error in the attempt; one that goes
on nevertheless ends with its process.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from flowmason_ray.errors import StageError

LOOK_EVERY_S = 0.05
"""How often memory is measured: a process can fill about 100 MiB in that time."""
GRACE_S = 2.0
"""How long an attempt may take to end after it was told."""
EXIT_CODE = 75

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_STATM = Path("/proc/self/statm")


class MemoryExceeded(StageError):
    """An attempt has taken more memory than its stage asks for."""

    code = "out_of_memory"


def own_bytes() -> int | None:
    """Return how much memory this process has for itself; None: this system does not tell."""
    try:
        _, resident, shared = _STATM.read_text(encoding="ascii").split()[:3]
    except OSError:
        return None
    return (int(resident) - int(shared)) * _PAGE_BYTES


@contextmanager
def limited(
    memory_mib: float | None,
    *,
    stop: Callable[[], None] | None = None,
    measure: Callable[[], int | None] = own_bytes,
    give_up: Callable[[int], None] = os._exit,
) -> Generator[None]:
    """Let what runs inside, or is waited for there, grow the process by at most so much.

    Args:
        memory_mib: How much; None: there is no limit.
        stop: Stops it; called in another thread. None: it runs on this thread, where an exception is raised.
        measure: Returns the memory in use, in bytes.
        give_up: Ends the process.

    Raises:
        MemoryExceeded: it has grown more.
    """
    before = None if memory_mib is None else measure()
    if memory_mib is None or before is None:
        yield
        return
    watch = _Watch(before, memory_mib, stop, measure, give_up)
    watch.start()
    try:
        yield
    except _Told:
        raise MemoryExceeded(watch.words()) from None
    except BaseException as exc:  # however it answers when it is stopped
        if stop is None or not watch.told:
            raise
        raise MemoryExceeded(watch.words()) from exc
    finally:
        watch.end()
    if watch.told:  # it ended by itself just then
        raise MemoryExceeded(watch.words())


class _Told(BaseException):
    """Raised in the attempt. Not an `Exception`, so that a component that catches those does not stop it."""


class _Watch:
    """Looks at the memory of one attempt from a thread of its own."""

    def __init__(
        self,
        before: int,
        memory_mib: float,
        stop: Callable[[], None] | None,
        measure: Callable[[], int | None],
        give_up: Callable[[int], None],
    ) -> None:
        self.told = False
        self._stop = stop
        self._limit_mib = memory_mib
        self._before = before
        self._most = before
        self._measure = measure
        self._give_up = give_up
        self._attempt = threading.get_ident()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._look, name="flowmason-memory", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self) -> None:
        """Stop looking. Called on the attempt's thread: an exception that is on its way to it arrives here at the latest.

        It is not taken back by setting none: CPython (3.11, `_PyEval_SignalAsyncExc`) would go on looking for it with every call
        for as long as the process lives, and hang as soon as somebody traces or profiles.
        """
        with self._lock:
            self._over.set()
        if self.told and self._stop is None:
            with suppress(_Told):
                self._tell()
                for _ in range(1000):  # it is raised where a loop begins again
                    pass

    def _tell(self) -> None:
        if self._stop is not None:
            self._stop()
            return
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._attempt), ctypes.py_object(_Told))

    def words(self) -> str:
        """Say what happened."""
        grown = (self._most - self._before) / 2**20
        return (
            f"The attempt has grown its worker by {grown:.0f} MiB of memory; its stage asks for {self._limit_mib:g} MiB "
            "('resources.memory_mib')."
        )

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            now = self._measure()
            self._most = max(self._most, now or 0)
            if self._most - self._before > self._limit_mib * 2**20:
                break
        with self._lock:
            if self._over.is_set():
                return
            self.told = True
            self._tell()
        since = monotonic()
        while not self._over.wait(LOOK_EVERY_S):
            if monotonic() - since > GRACE_S:
                self._give_up(EXIT_CODE)
                return
