"""Branching: a decision opens one of several bodies and skips the others.

Serves `conditional` and every third-party `@control_flow` component: the config names the bodies, the decision's fact
`branch` names the one to take (None for none). The construct ends when the taken body has ended; its value is what the
component returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.control_flow.base import (
    Body,
    ConfigProblem,
    Construct,
    Run,
    Shape,
    constant_truth,
    named_lists,
    pointer_part,
    stage_list,
)
from flowmason_ray.engine.events import BranchTaken, SkipReason, Success
from flowmason_ray.errors import Failure, nearest

if TYPE_CHECKING:
    from flowmason_ray.engine.scope import Scope

_SUFFIX = "_stages"


class Branching(Construct):
    """One body of several. Body names: the fields `<name>_stages`, and the keys under `branches`."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read every `*_stages` list and the lists under `branches`."""
        bodies = [
            Body(name=key.removesuffix(_SUFFIX), members=stage_list(config, key))
            for key in config
            if key.endswith(_SUFFIX)
        ]
        branches = config.get("branches")
        if branches is not None:
            bodies += [Body(name=name, members=members) for name, members in named_lists(branches, "/branches")]
        return Shape(bodies=tuple(bodies))

    def decided(self, run: Run, scope: Scope, index: int, event: Success) -> None:
        """Open the taken body, skip the others."""
        stage = scope.plan.stages[index]
        branch = (event.decision or {}).get("branch")
        if branch is not None and branch not in stage.bodies:
            names = sorted(stage.bodies)
            close = nearest(str(branch), names)
            message = f"It chose the branch {branch!r}; the config names {names}." + (
                f" Did you mean {close!r}?" if close else ""
            )
            run.fail(scope, index, Failure(code="unknown_branch", message=message, stage=event.path))
            return
        run.emit(BranchTaken(at=run.now, path=event.path, branch=branch))
        for name, region in stage.bodies.items():
            if name != branch:
                run.skip_region(scope, region, SkipReason.BRANCH_NOT_TAKEN)
        if branch is None:
            run.end(scope, index, event.value)
        else:
            assert scope.constructs is not None
            scope.constructs[index] = event.value  # not its output yet: the branch may fail, or be stopped
            run.open_region(scope, stage.bodies[branch])

    def body_ended(self, run: Run, scope: Scope, index: int, region: int) -> None:
        """The taken body has ended: so has the construct."""
        assert scope.constructs is not None
        run.end(scope, index, scope.constructs[index])


class Conditional(Branching):
    """`conditional`: the bodies `true` and `false`."""

    bare_expressions = ("condition",)

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read `true_branch_stages` and `false_branch_stages`."""
        written = None if "condition_expression" in config else constant_truth(config, "condition")
        return Shape(
            bodies=(
                Body(name="true", members=stage_list(config, "true_branch_stages")),
                Body(name="false", members=stage_list(config, "false_branch_stages")),
            ),
            never=() if written is None or "condition" not in config else ("false" if written else "true",),
            decided_by="condition",
            one_of=True,
        )


class Router(Branching):
    """`router`: a body per route, `route:<name>`, and `default`."""

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Read `routes` and `default_route`."""
        written = config.get("routes")
        if not isinstance(written, Mapping):
            return Shape()  # the component's Input says so
        routes = dict(named_lists(written, "/routes"))
        if config.get("case_insensitive") is True:
            folded: dict[str, str] = {}
            for name in routes:
                if (other := folded.setdefault(name.casefold(), name)) != name:
                    message = f"The routes {other!r} and {name!r} are the same when upper and lower case are."
                    raise ConfigProblem(message, f"/routes/{pointer_part(name)}")
        return Shape(
            bodies=(
                *(Body(name=f"route:{name}", members=members) for name, members in routes.items()),
                Body(name="default", members=stage_list(config, "default_route")),
            ),
            one_of=bool(config.get("default_route")),
        )
