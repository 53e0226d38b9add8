"""`variable_set`: gives a name to a value, for the stages after it in this scope and inside it.

A variable belongs to the scope in which it is set: one set inside an iteration is that iteration's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.control_flow.base import ConfigProblem, Construct, Run, Shape
from flowmason_ray.engine.events import Success, VariableSet

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope


class SetVariables(Construct):
    """`variable_set`. `options` is the tuple of names it sets, fixed when the plan is made."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read the names: `name`, or the keys of `variables`."""
        name, many = config.get("name"), config.get("variables")
        if (name is None) == (many is None):
            raise ConfigProblem("'variable_set' takes either 'name' and 'value', or 'variables' ({name: value}).", "")
        names: tuple[Any, ...] = (name,) if many is None else tuple(many) if isinstance(many, Mapping) else (many,)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        for each in names:
            if not isinstance(each, str) or not each.isidentifier():
                pointer = "/name" if many is None else "/variables"
                raise ConfigProblem(
                    f"A variable's name is letters, digits and '_', written out; found {each!r}.", pointer
                )
        return Shape(options=names)

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Make the values visible."""
        names: tuple[str, ...] = scope.plan.stages[index].options
        if scope.variables is None:
            scope.variables = {}
        for name in names:
            scope.variables[name] = event.value
        run.emit(VariableSet(at=run.now, path=event.path, names=names))
        run.end(scope, index, event.value)
