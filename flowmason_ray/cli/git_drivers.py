"""What git calls: the merge driver, the diff driver, `textconv` and the check before a commit.

Each leaves git's own behaviour in place when it cannot do better: a side that is no pipeline is merged and shown as text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from flowmason_ray.cli.dependents import dependents_of
from flowmason_ray.cli.git import content_at, git, top_level
from flowmason_ray.cli.git_install import CONFLICTS
from flowmason_ray.cli.pipeline_files import SUFFIX
from flowmason_ray.cli.terminal import Paint, note, write_bytes
from flowmason_ray.errors import FlowMasonError, InvalidPipeline, Problem

AS_TEXT = 65
"""What the merge driver exits with when git is to merge by line."""


def merge_file(base: str, ours: str, theirs: str, path: str) -> int:
    """Merge what git has laid out in three files into `ours`.

    Returns: 0 it is merged; `CONFLICTS` it is written with conflicts; `AS_TEXT` nothing is written.
    """
    from flowmason_ray.cli.fmt_command import replace_file
    from flowmason_ray.cli.merge_dialogue import print_conflicts
    from flowmason_ray.cli.merge_files import merged_bytes, read_document, validator_of
    from flowmason_ray.cli.problem_report import print_problems
    from flowmason_ray.cli.words import counted
    from flowmason_ray.spec.merge.merging import merge

    documents: list[dict[str, Any]] = []
    for side, file in (("base", base), ("ours", ours), ("theirs", theirs)):
        try:
            documents.append(read_document(Path(file), called=f"{path} ({side})", may_be_empty=side == "base"))
        except InvalidPipeline as exc:
            note(f"{path}: {side} is no valid pipeline, so it is merged by line: {exc.problems[0].message}")
            return AS_TEXT
    merged = merge(*documents, validate=validator_of(Path(path)))
    replace_file(Path(ours), merged_bytes(merged.document, merged.conflicts))
    if merged.clean:
        return 0
    print_conflicts(merged.conflicts)
    print_problems(merged.problems)
    if merged.conflicts:
        note(f"{path}: {counted(len(merged.conflicts), 'conflict')}. Decide with: fm merge --continue {path}")
    else:
        note(f"{path}: merged, but the result cannot be run. Mend it, then: git add {path}")
    return CONFLICTS


def show_difference(words: list[str]) -> int:
    """Show what git calls an external diff for: path, old file, hash, mode, new file, hash, mode, and after a rename the new path."""
    from flowmason_ray.cli.diff_sides import Side, report_on

    if len(words) < 7:  # an unmerged path comes alone
        write_bytes(f"{words[0] if words else ''}: not merged yet\n".encode())
        return 0
    path, old, new = words[0], words[1], words[4]
    renamed = words[7] if len(words) > 7 else path
    try:
        sides = tuple(
            Side(name=name, file=name, content=None if file == os.devnull else Path(file).read_bytes())
            for name, file in ((path, old), (renamed, new))
        )
        report = report_on((sides[0], sides[1]))
    except (InvalidPipeline, OSError):
        return _show_as_text(old, new)
    from flowmason_ray.cli.diff_text import as_text

    write_bytes(f"{as_text(report, _painter())}\n".encode("utf-8", "backslashreplace"))
    return 0


def _painter() -> Paint:
    """Return the painter for what git shows; it writes into git's pager, which is no terminal."""
    from flowmason_ray.cli.terminal import painter, styled

    if os.environ.get("GIT_PAGER_IN_USE") and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return styled
    return painter(sys.stdout)


def _show_as_text(old: str, new: str) -> int:
    from flowmason_ray.cli.git import try_git

    shown = try_git("diff", "--no-index", "--no-ext-diff", "--no-textconv", "--", old, new)
    write_bytes(shown.stdout)
    return 0


def write_comparable(file: str) -> int:
    """Write a pipeline so that lines differ only where it does: canonical, without positions, stages by id, keys in order."""
    from flowmason_ray.spec.diff.documents import read_exactly
    from flowmason_ray.spec.formatting import canonical_bytes
    from flowmason_ray.spec.reading import read_source

    try:
        document = read_exactly(read_source(Path(file)))
    except InvalidPipeline:
        write_bytes(Path(file).read_bytes())
        return 0
    stages = document.get("stages")
    if isinstance(stages, list):
        document = {**document, "stages": sorted(map(_without_position, cast("list[Any]", stages)), key=_id_of)}
    write_bytes(canonical_bytes(_sorted(document)))
    return 0


def _without_position(stage: Any) -> Any:
    if not isinstance(stage, dict):
        return stage
    return {key: value for key, value in cast("dict[str, Any]", stage).items() if key != "position"}


def _id_of(stage: Any) -> str:
    return str(cast("dict[str, Any]", stage).get("id", "")) if isinstance(stage, dict) else ""


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {key: _sorted(members[key]) for key in sorted(members)}
    return [_sorted(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


# -- before a commit ---------------------------------------------------------------------------------------------------


def check_staged() -> int:
    """Check the pipelines that are about to be committed, as they are staged, and those that use them.

    Returns: 0 they can be run; 1 one cannot.
    """
    from flowmason_ray.cli.problem_report import print_problems
    from flowmason_ray.cli.words import counted

    root = top_level()
    paths, removed = _staged("ACMRT", root), _staged("D", root)
    checked = [_errors(root / path, partial(content_at, "", path, root)) for path in paths]
    if paths or removed:
        users = dependents_of([root / path for path in paths], root, removed=bool(removed))
        checked += [_errors(file, file.read_bytes) for file in users]
    broken = [found for found in checked if found]
    print_problems(dict.fromkeys(problem for found in broken for problem in found))
    if broken:
        note(
            f"{counted(len(broken), 'pipeline')} cannot be run, so nothing is committed; 'git commit --no-verify' does it."
        )
    return 1 if broken else 0


def _staged(kinds: str, root: Path) -> list[str]:
    """Return the staged pipelines with which this has happened, in git's letters; a renamed one was removed and added."""
    words = ("diff", "--cached", "--name-only", "--no-renames", f"--diff-filter={kinds}", "-z", "--no-ext-diff")
    listed = git(*words, cwd=root).decode("utf-8", "surrogateescape")
    return [path for path in listed.split("\0") if path.endswith(SUFFIX)]


def _errors(file: Path, content: Callable[[], bytes]) -> list[Problem]:
    """Return what keeps a pipeline from being run."""
    from flowmason_ray.spec.loader import load_pipeline_text
    from flowmason_ray.wiring import open_workspace

    try:
        loaded = load_pipeline_text(content(), file=str(file))
        return [problem for problem in open_workspace(file).check(loaded) if problem.severity == "error"]
    except InvalidPipeline as exc:
        return [problem for problem in exc.problems if problem.severity == "error"]
    except FlowMasonError as exc:  # a component of the project cannot be imported
        return [Problem(code=exc.code, message=exc.message, file=str(file))]
