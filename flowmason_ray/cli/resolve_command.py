"""`fm resolve`: a pipeline without parents, in canonical form: what all the others work with."""

from __future__ import annotations

from typing import Annotated

import typer

from flowmason_ray.cli.errors import command


@command
def resolve(file: Annotated[str, typer.Argument(metavar="FILE", help="The pipeline file.")]) -> None:
    """Print a pipeline put together with all that it extends, in canonical form.

    The result extends nothing and means the same, if it lies in the same directory.
    """
    from flowmason_ray.cli.terminal import write_bytes
    from flowmason_ray.spec.formatting import canonical_bytes
    from flowmason_ray.wiring import load

    write_bytes(canonical_bytes(load(file).data))
