"""Keeps stdout for the result: whatever else prints there while a run goes on, or when it is over, comes out on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout, suppress


@contextmanager
def keep_stdout() -> Generator[None]:
    """Send Python's prints, and what C code and child processes write to file descriptor 1, to stderr."""
    try:
        kept = os.dup(1) if sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2 else None
    except (OSError, ValueError):  # replaced by something that is no file, as test runners do
        kept = None
    try:
        if kept is not None:
            sys.stdout.flush()
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def end_stdout() -> None:
    """Send what is printed from now on to stderr: the result is out, and libraries have last words (Ray says which nodes died)."""
    with suppress(OSError, ValueError):  # it is closed, or no file
        if sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2:
            sys.stdout.flush()
            os.dup2(2, 1)
