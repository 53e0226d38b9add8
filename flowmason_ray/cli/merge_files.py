"""What `fm merge` and git's merge driver share: reading sides, checking results, writing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowmason_ray.errors import FlowMasonError, InvalidPipeline, Problem

if TYPE_CHECKING:
    from flowmason_ray.spec.merge.blame import Validator
    from flowmason_ray.spec.merge.conflicts import Conflict


def read_document(file: Path, *, called: str | None = None, may_be_empty: bool = False) -> dict[str, Any]:
    """Read a pipeline file as a canonical document.

    Args:
        file: The file.
        called: What problems call it; None: by its name.
        may_be_empty: Whether an empty file stands for no pipeline at all: git's base of a file that both sides added.

    Raises:
        InvalidPipeline: it cannot be loaded.
    """
    from flowmason_ray.spec.diff.documents import document_of
    from flowmason_ray.spec.loader import load_pipeline_text
    from flowmason_ray.spec.reading import read_source

    text = read_source(file).text
    if may_be_empty and not text.strip():
        return {}
    return document_of(load_pipeline_text(text, file=called or str(file)))


def validator_of(file: Path) -> Validator:
    """Return a validator that loads and plans a document as if it stood in `file`, with the components of its project."""
    from flowmason_ray.spec.formatting import canonical_bytes
    from flowmason_ray.spec.loader import load_pipeline_text
    from flowmason_ray.wiring import open_workspace

    workspace = open_workspace(file)

    def problems_of(document: dict[str, Any]) -> Sequence[Problem]:
        try:
            return workspace.check(load_pipeline_text(canonical_bytes(document), file=str(file)))
        except InvalidPipeline as exc:
            return exc.problems
        except FlowMasonError as exc:  # a component's module that cannot be imported: the same on every side
            return [Problem(code=exc.code, message=exc.message)]

    return problems_of


def merged_bytes(document: dict[str, Any], conflicts: tuple[Conflict, ...]) -> bytes:
    """Return a merged pipeline as it is written, its open conflicts on top."""
    from flowmason_ray.spec.formatting import canonical_bytes
    from flowmason_ray.spec.merge.conflicts import with_conflicts

    return canonical_bytes(with_conflicts(document, conflicts))
