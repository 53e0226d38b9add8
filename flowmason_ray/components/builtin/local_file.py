"""`local_file`: read, write and look around in the project's directory.

Declared idempotent: doing an operation again with the same input leaves the same files. So `write` and `copy` that must not replace
a file are done when it holds what they would write: an earlier attempt may have written it. `append` would break that
promise on a repeated attempt, so it keeps a journal beside the file (see `append_once`), and so does `move` (see `move_once`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.append_once import append_once, is_journal
from flowmason_ray.components.builtin.contents import ContentFormat, decoded, encoded
from flowmason_ray.components.builtin.move_once import move_once, was_moved
from flowmason_ray.components.files import (
    existing_file,
    file_errors,
    is_temporary,
    relative,
    resolve_inside,
    write_atomic,
)
from flowmason_ray.components.protected import refuse_protected
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

MAX_READ_BYTES = 64 * 1024 * 1024
"""A file larger than this is no message between stages; tables have `table_read`."""


@operator(effect="idempotent", cost="io", category="files")
class LocalFile:
    """Reads, writes, lists, moves or deletes files inside the project's directory."""

    class Input(BaseModel):
        """What to do with which file."""

        model_config = ConfigDict(extra="forbid")

        operation: Literal["read", "write", "append", "list", "exists", "delete", "copy", "move", "mkdir"] = Field(
            description="What to do. 'delete' and 'move' take a link itself, the others what it leads to."
        )
        path: str = Field(description="The file or directory, relative to the project; it must not lead outside.")
        content: Any = Field(
            default=None,
            description="For write and append: a text, base64 for format 'bytes', or any JSON value for format 'json'.",
        )
        format: ContentFormat = Field(
            default="text", description="How the content is read and written; 'bytes' is base64 in the pipeline."
        )
        encoding: str = Field(default="utf-8", description="The encoding of texts.")
        destination: str | None = Field(default=None, description="For copy and move: the new path.")
        pattern: str = Field(default="*", description="For list: a glob such as '*.csv' or '**/*.json'.")
        missing_ok: bool = Field(default=True, description="For delete: whether a missing file is fine.")
        overwrite: bool = Field(
            default=True,
            description="For write, copy and move: whether an existing file may be replaced. If not, write and copy are done where "
            "it holds the same content already, as it does after an earlier attempt.",
        )

    class Output(BaseModel):
        """What was found or done; fields that do not belong to the operation are null."""

        path: str = Field(description="The path, relative to the project.")
        exists: bool = Field(description="Whether the path exists now.")
        content: Any = Field(default=None, description="read: the content, in the form that 'format' asks for.")
        size_bytes: int | None = Field(default=None, description="The file's size now.")
        files: list[str] | None = Field(
            default=None,
            description="list: the files found, sorted, relative to the project; without `.flowmason`, journals and temporary files.",
        )
        changed: bool = Field(default=False, description="Whether this attempt changed anything.")

    def execute(self, input: Input, context: Context) -> Output:
        """Do the operation.

        Raises:
            PermanentError: the path leads outside, is missing, or the content does not fit the format.
        """
        with file_errors(input.path):
            return getattr(self, f"_{input.operation}")(input, context)

    def _read(self, input: Input, context: Context) -> Output:
        file = existing_file(context.project_dir, input.path)
        size = file.stat().st_size
        if size > MAX_READ_BYTES:
            raise PermanentError(
                f"File {input.path!r} has {size} bytes; local_file reads up to {MAX_READ_BYTES}. For tables use table_read.",
                code="file_too_large",
            )
        content = decoded(file.read_bytes(), input.format, of=f"File {input.path!r}", encoding=input.encoding)
        return self._about(file, context, content=content, size_bytes=size)

    def _write(self, input: Input, context: Context) -> Output:
        return self._put(_target(context, input.path), _encode(input), input.path, input, context)

    def _append(self, input: Input, context: Context) -> Output:
        if input.format == "json":
            raise PermanentError(
                "A JSON document cannot be appended to; append a text with one document a line instead.",
                code="invalid_input",
            )
        file = _target(context, input.path)
        changed = append_once(file, _encode(input), context.idempotency_key)
        return self._about(file, context, size_bytes=file.stat().st_size, changed=changed)

    def _list(self, input: Input, context: Context) -> Output:
        folder = resolve_inside(context.project_dir, input.path, reading=True)
        if not folder.is_dir():
            raise PermanentError(f"{input.path!r} is not a directory in the project.", code="not_a_directory")
        if Path(input.pattern).is_absolute() or ".." in Path(input.pattern).parts:
            raise PermanentError(
                f"The pattern {input.pattern!r} must stay below {input.path!r}.", code="path_outside_project"
            )
        root = context.project_dir.resolve()
        found = [p for p in folder.glob(input.pattern) if _is_listed(root, p)]
        return self._about(folder, context, files=sorted(relative(root, p) for p in found))

    def _exists(self, input: Input, context: Context) -> Output:
        file = resolve_inside(context.project_dir, input.path, reading=True)
        return self._about(file, context, size_bytes=file.stat().st_size if file.is_file() else None)

    def _delete(self, input: Input, context: Context) -> Output:
        file = resolve_inside(context.project_dir, input.path)
        link = _place(context, input.path)
        if link.is_symlink():  # it goes, and what it leads to stays
            link.unlink()
            return self.Output(path=relative(context.project_dir, link), exists=False, changed=True)
        if not file.exists():
            if not input.missing_ok:
                existing_file(context.project_dir, input.path)
            return self._about(file, context)
        if file.is_dir():
            raise PermanentError(
                f"{input.path!r} is a directory; local_file deletes files only.", code="is_a_directory"
            )
        file.unlink()
        return self._about(file, context, changed=True)

    def _copy(self, input: Input, context: Context) -> Output:
        source = existing_file(context.project_dir, input.path)
        destination = _destination(input)
        return self._put(_target(context, destination), source.read_bytes(), destination, input, context)

    def _put(self, file: Path, data: bytes, path: str, input: Input, context: Context) -> Output:
        if not input.overwrite and file.exists():
            if file.stat().st_size != len(data) or file.read_bytes() != data:
                raise _exists_already(path)
            return self._about(file, context, size_bytes=len(data))
        size = write_atomic(file, lambda temporary: _put(temporary, data))
        return self._about(file, context, size_bytes=size, changed=True)

    def _move(self, input: Input, context: Context) -> Output:
        source, destination = resolve_inside(context.project_dir, input.path), _destination(input)
        link = _place(context, input.path)
        target = _target(context, destination)
        if not source.exists() and not link.is_symlink():
            for there in (_place(context, destination), target):  # a link that was moved, or a file
                if was_moved(context, there):
                    return self._moved(there, context, changed=False)
        if not link.is_symlink() or source.is_dir():
            source = link = existing_file(context.project_dir, input.path)
        if not input.overwrite and target.exists():
            raise _exists_already(destination)
        if link != source:
            _check_link(context, input, source, link, target)
        move_once(context, link, target)
        return self._moved(target, context, changed=True)

    def _moved(self, file: Path, context: Context, *, changed: bool) -> Output:
        size = file.stat().st_size if file.is_file() else None
        return self.Output(path=relative(context.project_dir, file), exists=True, size_bytes=size, changed=changed)

    def _mkdir(self, input: Input, context: Context) -> Output:
        folder = resolve_inside(context.project_dir, input.path)
        there = folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        return self._about(folder, context, changed=not there)

    def _about(self, file: Path, context: Context, **facts: Any) -> Output:
        return self.Output(path=relative(context.project_dir, file), exists=file.exists(), **facts)


def _is_listed(root: Path, found: Path) -> bool:
    """Tell whether what a pattern found is a file of the project's, and none that is kept for its runs and writes."""
    if not found.is_file() or not (leads_to := found.resolve()).is_relative_to(root):
        return False
    kept = any(".flowmason" in each.relative_to(root).parts for each in (found, leads_to))
    return not (kept or is_temporary(found) or is_journal(found))


def _destination(input: LocalFile.Input) -> str:
    if input.destination is None:
        raise PermanentError(f"Operation {input.operation!r} needs 'destination'.", code="invalid_input")
    return input.destination


def _target(context: Context, path: str) -> Path:
    file = resolve_inside(context.project_dir, path)
    if file.is_dir():
        raise PermanentError(f"{path!r} is a directory, not a file.", code="is_a_directory")
    return file


def _exists_already(path: str) -> PermanentError:
    return PermanentError(f"File {path!r} exists already, and 'overwrite' is false.", code="file_exists")


def _place(context: Context, path: str) -> Path:
    """Return where `path` itself lies: links on the way are followed, not the one that it may be."""
    given = Path(path)
    place = resolve_inside(context.project_dir, str(given.parent)) / given.name
    if place.is_symlink():
        refuse_protected(context.project_dir.resolve(), place, path)
    return place


def _check_link(context: Context, input: LocalFile.Input, leads_to: Path, link: Path, target: Path) -> None:
    """Refuse to move a link onto what it leads to, or where its words lead outside the project."""
    if target == leads_to:
        file = relative(context.project_dir, leads_to)
        raise PermanentError(
            f"The link {input.path!r} leads to {file!r}, which it would replace.", code="invalid_input"
        )
    words = link.readlink()
    if not (target.parent / words).resolve().is_relative_to(context.project_dir.resolve()):
        raise PermanentError(
            f"The link {input.path!r} says {str(words)!r}, which leads outside the project's directory from {input.destination!r}.",
            code="path_outside_project",
        )


def _put(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _encode(input: LocalFile.Input) -> bytes:
    data = encoded(input.content, input.format, encoding=input.encoding, indent=2)
    return data + b"\n" if input.format == "json" else data
