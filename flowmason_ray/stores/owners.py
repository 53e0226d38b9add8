"""Who writes a run: the process that holds its lease, and whether that process is still there.

A lease runs out by the store's clock, which all who share the store see alike. Where a process looks at its own lease it uses
a clock that nobody can set and that goes on while the process is stopped and the machine sleeps.

A process that has gone need not be waited for: on its own machine that is known at once. What tells machines apart is the host
name, what the kernel was booted as, and the process name space: containers may share all but the last.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

LEASE_S = 15.0
"""How long a run belongs to a process that does not renew its lease. Renewed every third of it, so that two renewals in a row
may fail; long enough for a slow commit, short enough to wait for on another machine."""
RENEWALS = 3
"""How often a lease is renewed while it lasts."""
MARGIN = 0.15
"""The part of a lease before its end in which its holder no longer trusts it: what is begun then may come too late."""

_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def clock() -> float:
    """Return seconds that go on while this process is stopped or the machine sleeps (CLOCK_BOOTTIME, clock_gettime(2))."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told apart from any other there ever was."""

    host: str
    boot: str | None
    """The kernel's boot and the process name space; "" where there is no telling, None in logs of format 1."""
    pid: int
    started: str
    """When the process was started (`process_start`); "" where there is no telling."""

    def has_gone(self) -> bool:
        """Tell whether the process is certainly not there any more. One on another machine never is, as far as we know."""
        here = this_process()
        if self.host != here.host or self.boot not in (None, here.boot):
            return False
        return process_start(self.pid) != self.started


_this: Owner | None = None


def this_process() -> Owner:
    """Return who we are."""
    global _this
    pid = os.getpid()
    if _this is None or _this.pid != pid:  # a forked child is somebody else
        _this = Owner(host=socket.gethostname(), boot=_boot(), pid=pid, started=process_start(pid) or "")
    return _this


def _boot() -> str:
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """Return when a process was started, as the kernel counts it, so that a reused pid is not mistaken; None: no such process.

    Field 22 of /proc/PID/stat (proc(5)). Where there is no /proc, every process that exists is taken to be the one.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return ""
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # one that is dead and not waited for yet has gone
