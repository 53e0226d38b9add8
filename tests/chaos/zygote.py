"""Starts `fm` processes quickly: a process that has imported everything forks one per command. Run as a program of its own.

Protocol, JSON lines. In: {"id", "args", "cwd", "out", "err", "fsync": n or 0, "after": bool}. Out: {"id", "pid"} when it has begun,
{"pid", "status"} when it has ended (a negative status is the signal that ended it). The end of the input ends everything.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from importlib import import_module
from typing import Any

import flowmason_ray.cli.app

# What a run needs, imported once. No thread is started by importing, so that forking is safe.
for name in (
    "cli.resume_command",
    "cli.run_command",
    "components.builtin.branches",
    "components.builtin.http_request",
    "components.builtin.loops",
    "engine.executors.in_process",
    "resuming",
    "stores.sqlite",
):
    import_module(f"flowmason_ray.{name}")
"localhost".encode("idna")  # loads the codec: when threads of a fork do so at once, Python may say that there is none

PR_SET_PDEATHSIG = 1
"""prctl(2): a child dies with its parent, so that a test that is ended leaves nothing behind."""


def child(request: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    os.chdir(request["cwd"])
    for target, name in ((1, "out"), (2, "err")):
        handle = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, target)
        os.close(handle)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(request.get("env") or {})
    if request.get("fsync"):
        ctypes.CDLL(None).chaos_arm(request["fsync"], int(request["after"]))
    status = 70  # EX_SOFTWARE, for what start() does not turn into a status
    try:
        flowmason_ray.cli.app.start(request["args"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Serve requests. One thread: a process with threads is no good to fork."""
    pending = b""
    children: set[int] = set()
    while True:
        readable, _, _ = select.select([0], [], [], 0.005)
        if readable:
            received = os.read(0, 65536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    child(request)
                children.add(pid)
                say({"id": request["id"], "pid": pid})
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                say({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def say(line: dict[str, Any]) -> None:
    """Answer."""
    os.write(1, (json.dumps(line) + "\n").encode())


if __name__ == "__main__":
    main()
