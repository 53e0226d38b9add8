"""Keeps stdout for the result: while a run goes on, whatever its components print there comes out on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout


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
