"""`fm fmt`: rewrites pipelines in their canonical form."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flowmason_ray.cli.errors import FAILED, INVALID, command
from flowmason_ray.cli.terminal import note, painter, write_text


@command
def fmt(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Pipeline files, or directories to look for them in.")
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; list the files that would change, and exit with 1.")
    ] = False,
) -> int:
    """Rewrite pipelines in their canonical form: current spellings, one order of keys, two spaces.

    Nothing is lost: values, the order of stages and unknown keys stay. Files that are not JSON are left
    alone and reported (exit code 2).
    """
    from flowmason_ray.cli.pipeline_files import find_pipelines
    from flowmason_ray.cli.problem_report import print_problems
    from flowmason_ray.cli.words import counted
    from flowmason_ray.errors import InvalidPipeline

    files = find_pipelines(paths)
    changed, broken = 0, 0
    for file in files:
        try:
            before, after = _formatted(file)
            if before == after:
                continue
            changed += 1
            if not check:
                replace_file(file, after)
            write_text(f"{file}\n")
        except InvalidPipeline as exc:
            broken += 1
            print_problems(exc.problems)
    paint = painter(sys.stderr)
    verb = "would change" if check else "rewritten"
    counts = [f"{counted(changed, 'pipeline')} {verb}"] if changed else []
    counts += [paint(f"{counted(broken, 'pipeline')} cannot be formatted", "red", "bold")] if broken else []
    unchanged = len(files) - changed - broken
    counts += [f"{counted(unchanged, 'pipeline')} in canonical form"] if unchanged else []
    note(f"{', '.join(counts)}.")
    return INVALID if broken else FAILED if check and changed else 0


def _formatted(file: Path) -> tuple[bytes, bytes]:
    """Return a file's content and what it should be."""
    from flowmason_ray.spec.formatting import format_pipeline
    from flowmason_ray.spec.reading import read_source

    before = read_source(file).text.encode()
    return before, format_pipeline(before, file=str(file))


def replace_file(file: Path, content: bytes) -> None:
    """Replace a file's content as a whole or not at all: written beside it, then renamed. Keeps its permissions.

    A symbolic link stays one; what it points to is replaced.

    Raises:
        InvalidPipeline: it cannot be written.
    """
    from tempfile import NamedTemporaryFile

    from flowmason_ray.errors import InvalidPipeline, Problem

    target = file.resolve()
    temporary: str | None = None
    try:
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream:
            temporary = stream.name
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, target.stat().st_mode & 0o7777 if target.exists() else 0o644)
        os.replace(temporary, target)
        temporary = None
    except OSError as exc:
        message = f"Cannot write it: {exc.strerror or exc}. The file is as it was."
        raise InvalidPipeline([Problem(code="unwritable_file", message=message, file=str(file))]) from None
    finally:
        if temporary is not None:
            os.unlink(temporary)
