"""The one guard around optional dependencies: a component that needs one says so at the top of its module.

    with needs("The table components", extra="tables"):
        import polars as pl

The module is only imported when a pipeline names one of its components, so the error reaches whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from flowmason_ray.errors import MissingExtra


@contextmanager
def needs(feature: str, *, extra: str) -> Generator[None]:
    """Turn a failed import of something foreign into an error that names what to install.

    Args:
        feature: What cannot be used without it, as the start of a sentence ("The component 'chart'").
        extra: The extra of this distribution that brings it.

    Raises:
        MissingExtra: a module is not installed. Modules of our own that are missing are bugs and pass through.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        module = (exc.name or "").partition(".")[0]
        if not module or module == __name__.partition(".")[0]:
            raise
        raise MissingExtra(feature=feature, extra=extra, module=module) from exc
