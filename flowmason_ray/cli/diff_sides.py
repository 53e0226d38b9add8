"""What `fm diff` compares: two files, or versions of files that git keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.git import content_at, git, is_revision, top_level, try_git
from flowmason_ray.cli.pipeline_files import SUFFIX
from flowmason_ray.errors import InvalidCall

if TYPE_CHECKING:
    from flowmason_ray.spec.diff.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One version of a pipeline file. `content` is None where there is no such file."""

    name: str
    """What it is called in the diff."""
    file: str
    """What problems call it."""
    content: bytes | None

    def document(self) -> dict[str, Any]:
        """Return the pipeline as a canonical document; an empty one where there is no file.

        Raises:
            InvalidPipeline: it cannot be loaded.
        """
        from flowmason_ray.spec.diff.documents import document_of
        from flowmason_ray.spec.loader import load_pipeline_text

        return {} if self.content is None else document_of(load_pipeline_text(self.content, file=self.file))


def report_on(sides: tuple[Side, Side]) -> Report:
    """Compare two versions.

    Raises:
        InvalidPipeline: one of them cannot be loaded.
    """
    from flowmason_ray.spec.diff.report import report_of

    before, after = sides
    return report_of(before.document(), after.document(), a_name=before.name, b_name=after.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class InGit:
    """Two versions of what git keeps: those of a revision, and of another one or the work tree."""

    root: Path
    """The directory of the work tree. All paths are relative to it."""
    since: str
    until: str | None
    """None: the work tree."""
    named: frozenset[str]
    """The files and directories that were asked for; none: everything."""
    changed: tuple[tuple[str, str], ...]
    """(path before, path after) of the pipelines that git calls changed, as far as they are asked for."""

    def sides(self, old: str, new: str) -> tuple[Side, Side]:
        """Return the two versions of a pipeline."""
        return (
            _of_revision(self.since, old, self.root, self.names(old, new)[0]),
            _of_revision(self.until, new, self.root, self.names(old, new)[1])
            if self.until
            else _of_work_tree(new, self.root),
        )

    def names(self, old: str, new: str) -> tuple[str, str]:
        """Return what the two versions of a pipeline are called."""
        return f"{old} at {self.since}", f"{new} at {self.until}" if self.until else new


def find_sides(targets: Sequence[str], files: Sequence[str]) -> list[tuple[Side, Side]]:
    """Return the pairs to compare; as `what_is_asked`."""
    asked = what_is_asked(targets, files)
    if isinstance(asked, InGit):
        return [asked.sides(old, new) for old, new in asked.changed]
    return [(_of_file(asked[0]), _of_file(asked[1]))]


def what_is_asked(targets: Sequence[str], files: Sequence[str]) -> tuple[str, str] | InGit:
    """Return what a command line asks to be compared: two files, or versions in git.

    Args:
        targets: What stands on the command line, before `--` if there is one: two files, or revisions and files.
        files: What stands behind `--`.

    Raises:
        InvalidCall: it is not clear, or not possible.
        InvalidPipeline: a file cannot be read.
    """
    if not files and len(targets) == 2 and all(map(os.path.isfile, targets)):
        return targets[0], targets[1]
    revisions = list(targets)
    paths = list(files)
    if not files:
        split = next((n for n, t in enumerate(targets) if not _may_be_revision(t)), len(targets))
        revisions, paths = list(targets[:split]), list(targets[split:])
    if len(revisions) == 1 and ".." in revisions[0] and not os.path.exists(revisions[0]):
        revisions = _range(revisions[0])
    if len(revisions) > 2:
        raise InvalidCall(f"Two revisions can be compared; these are {len(revisions)}: {', '.join(revisions)}.")
    if not files and len(revisions) < 2 and len(paths) == 2 and not all(map(os.path.exists, paths)):
        return paths[0], paths[1]  # a file that is missing is told as such
    return _in_git(revisions, paths)


def _may_be_revision(text: str) -> bool:
    if os.path.exists(text):
        return False
    return all(is_revision(end or "HEAD") for end in text.replace("...", "..").split("..")[:2])


def _range(text: str) -> list[str]:
    """Return the two ends of `A..B`; of `A...B`, where B left A, and B, as git means it."""
    separator = "..." if "..." in text else ".."
    first, _, last = text.partition(separator)
    ends = [first or "HEAD", last or "HEAD"]
    if separator == "...":
        ends[0] = git("merge-base", *ends).decode().strip()[:12]
    return ends


def _of_file(name: str) -> Side:
    from flowmason_ray.spec.reading import read_source

    return Side(name=name, file=name, content=read_source(Path(name)).text.encode())


def _in_git(revisions: list[str], paths: list[str]) -> InGit:
    """Return two revisions, or a revision (HEAD) and the work tree, with the pipelines that differ."""
    start = Path(paths[0]).parent if paths else Path.cwd()
    here = start if start.is_dir() else Path.cwd()
    root = top_level(here)
    since = revisions[0] if revisions else "HEAD"
    until = revisions[1] if len(revisions) > 1 else None
    named = frozenset(_in_root(path, root) for path in paths)
    for path in named:
        _must_be_somewhere(path, root, since, until)
    changed = list(_changed(since, until, sorted(named), root))
    if until is None:  # git does not list what it does not know yet
        listed = {new for _, new in changed}
        changed += [(path, path) for path in sorted(named - listed) if _is_new(path, since, root)]
    pipelines = tuple(
        (old, new) for old, new in changed if new in named or new.endswith(SUFFIX) or old.endswith(SUFFIX)
    )
    return InGit(root=root, since=since, until=until, named=named, changed=pipelines)


def _in_root(path: str, root: Path) -> str:
    """Return a path as git knows it; the file need not exist."""
    full = Path(os.path.abspath(path))
    try:
        return Path(os.path.realpath(full.parent), full.name).relative_to(os.path.realpath(root)).as_posix()
    except ValueError:
        raise InvalidCall(f"{path!r} is not in the git repository {str(root)!r}.") from None


def _must_be_somewhere(path: str, root: Path, since: str, until: str | None) -> None:
    """Refuse a path that neither side has: a slip must not read as `no differences`."""
    there = [(root / path).exists()] if until is None else []
    in_tree = "" if path == "." else path
    there += [try_git("cat-file", "-e", f"{rev}:{in_tree}", cwd=root).returncode == 0 for rev in (since, until) if rev]
    if not any(there):
        where = f"{since!r} or {until!r}" if until else f"{since!r} or the work tree"
        raise InvalidCall(f"There is no {path!r} in {where}.")


def _changed(since: str, until: str | None, paths: list[str], root: Path) -> Iterator[tuple[str, str]]:
    """Yield (old path, new path) of what changed; they differ where a file was renamed."""
    ends = [since, until] if until else [since]
    listed = git("diff", "--name-status", "-M", "-z", "--no-ext-diff", *ends, "--", *paths, cwd=root)
    words = iter(listed.decode("utf-8", "surrogateescape").split("\0"))
    for status in words:
        if not status:
            return
        old = next(words)
        yield old, next(words) if status[0] in "RC" else old


def _is_new(path: str, since: str, root: Path) -> bool:
    return (root / path).is_file() and try_git("cat-file", "-e", f"{since}:{path}", cwd=root).returncode != 0


def _of_revision(revision: str | None, path: str, root: Path, name: str) -> Side:
    spec = f"{revision}:{path}"
    there = try_git("cat-file", "-e", spec, cwd=root).returncode == 0
    return Side(name=name, file=spec, content=content_at(revision or "", path, root) if there else None)


def _of_work_tree(path: str, root: Path) -> Side:
    file = root / path
    shown = os.path.relpath(file)
    if not file.exists():
        return Side(name=path, file=shown, content=None)
    side = _of_file(str(file))
    return Side(name=path, file=shown, content=side.content)
