"""`fm init`: a small project that runs at once."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from flowmason_ray.cli.errors import command

TEMPLATE = Path(__file__).parent / "project_template"
"""The project as it is made, file by file. Kept as real files, so that it is checked and run like everything else."""

_RENAMED = {"gitignore": ".gitignore"}
"""Files that must have another name where we keep them."""


@command
def init(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where to make it; may exist already.")],
) -> None:
    """Make a small project that runs at once: a pipeline and a component of its own.

    Existing files are never overwritten: when one is in the way, nothing is written.
    """
    from flowmason_ray.cli.terminal import note
    from flowmason_ray.errors import InvalidCall

    root = Path(directory)
    if root.exists() and not root.is_dir():
        raise InvalidCall(f"{directory!r} is a file; expected a directory.")
    files = {root / path: content for path, content in template_files(root.resolve().name).items()}
    taken = [str(file) for file in files if file.exists() or file.is_symlink()]
    if taken:
        raise InvalidCall(f"Nothing was written, because there is already: {', '.join(taken)}.")
    try:
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as stream:  # x: nothing that appears meanwhile is overwritten either
                stream.write(content)
    except OSError as exc:
        raise InvalidCall(f"Cannot write {exc.filename or directory!r}: {exc.strerror or exc}.") from None
    for file in files:
        note(f"  {file}")
    note("\nNow try:\n")
    if root.resolve() != Path.cwd():
        note(f"  cd {shlex.quote(directory)}")
    for line in ("fm validate .", "fm run pipelines/reviews.pipeline.json --sample", "fm runs story last"):
        note(f"  {line}")


def template_files(name: str) -> dict[Path, bytes]:
    """Return the files of a new project called `name`: relative path → content."""
    import json

    found: dict[Path, bytes] = {}
    for folder, folders, files in os.walk(TEMPLATE):
        folders[:] = sorted(each for each in folders if each != "__pycache__")
        for file in sorted(files):
            path = Path(folder, file)
            content = path.read_bytes()
            if file == "flowmason.json":
                settings = {**json.loads(content), "name": name or "project"}
                content = f"{json.dumps(settings, indent=2, ensure_ascii=False)}\n".encode()
            relative = path.relative_to(TEMPLATE)
            found[relative.with_name(_RENAMED.get(file, file))] = content
    return found
