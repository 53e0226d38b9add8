"""How a pipeline names another one: a path relative to its own file, a name, or `name@range`."""

from __future__ import annotations


def is_path(reference: str) -> bool:
    """Tell whether a reference is a path: it has a `/` or ends in `.json`."""
    return "/" in reference or reference.endswith(".json")


def split_reference(reference: str) -> tuple[str, str]:
    """Return the name and the range of a reference that is no path; without a range that is ""."""
    name, _, wanted = reference.partition("@")
    return name, wanted
