"""`fm test --watch`: runs the tests again when a file that they depend on changes.

Looks at the files' times and sizes a few times a second: that is cheap for the hundreds of files of a project, needs no
library and works on every file system, network ones included.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flowmason_ray.cli.errors import report_error
from flowmason_ray.cli.terminal import is_terminal, note
from flowmason_ray.errors import FlowMasonError

INTERVAL_S = 0.25
"""Below what a person notices after saving a file."""

_CLEAR = "\x1b[2J\x1b[3J\x1b[H"

Snapshot = dict[Path, tuple[int, int]]


def watch_tests(paths: Sequence[str], run: Callable[[], int]) -> int:
    """Run the tests, and again on every change, until Ctrl-C.

    Args:
        paths: What the command line names.
        run: Runs them once and returns the exit code.

    Returns:
        The exit code: 0, because ending by Ctrl-C is what watching is meant to do.
    """
    if is_terminal(sys.stdout):
        # A shell without job control starts commands in the background with SIGINT ignored, and that is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            before = snapshot(paths)
            if is_terminal(sys.stdout):
                print(_CLEAR, end="", flush=True)
            try:
                run()
            except FlowMasonError as exc:  # a directory whose last test was removed: it may come back
                report_error(exc)
            note("Watching for changes; Ctrl-C ends.")
            while (now := snapshot(paths)) == before:
                time.sleep(INTERVAL_S)
            changed = sorted(path.name for path in before.keys() ^ now.keys() | _different(before, now))
            note(f"Changed: {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}")
    except KeyboardInterrupt:
        note()
        return 0


def _different(before: Snapshot, now: Snapshot) -> set[Path]:
    return {path for path in before.keys() & now.keys() if before[path] != now[path]}


def snapshot(paths: Sequence[str]) -> Snapshot:
    """Return the time and the size of every file that the tests depend on."""
    from flowmason_ray.pipeline_tests.discovery import dependencies, find_tests

    try:
        tests = find_tests(paths)
    except FlowMasonError:
        tests = []
    found: Snapshot = {}
    for path in dependencies(tests):
        try:
            stat = path.stat()
        except OSError:
            continue
        found[path] = (stat.st_mtime_ns, stat.st_size)
    return found
