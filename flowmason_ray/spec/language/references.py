"""What an expression reads, told without evaluating it: the plan makes its edges and its checks of this.

A reference is a root name and the static part of the path after it: `stages.a.rows[0].name` is static to its end,
`stages.a.rows[i].name` up to `rows`. The value of a stage has three aspects: its output (`.output` may be left out), its
`.status` and its `.error`; this is where that rule lives, for the compiler too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import nodes

from flowmason_ray.spec.language.syntax import ExpressionSyntaxError

Aspect = Literal["output", "status", "error"]
Key = str | int


@dataclass(frozen=True, slots=True)
class StageView:
    """What `stages.<id>` is bound to. A skipped or failed stage has no output (None)."""

    output: Any = None
    status: str = "succeeded"
    error: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """One value that an expression reads.

    `path` is the static part after the root; for stages it starts with the stage's id, and `.output` is left out. `dynamic`
    tells that something computed follows. `defaulted` tells that a missing value is tolerated here (inside of `default` or
    `is defined`). `column` counts from 1 in the source of the expression.
    """

    root: str
    path: tuple[Key, ...] = ()
    aspect: Aspect = "output"
    dynamic: bool = False
    defaulted: bool = False
    column: int = 1

    def __str__(self) -> str:
        return path_text(self.root, self.path, self.aspect)


def path_text(root: str, path: tuple[Key, ...], aspect: Aspect = "output") -> str:
    """Write a path as an expression, as short as it can be."""
    if root == "stages" and path:
        after = list(path[1:])
        if aspect != "output":
            after = [aspect, *after]
        elif after and after[0] in ("output", "status", "error"):
            after = ["output", *after]
        path = (path[0], *after)
    text = root
    for position, key in enumerate(path):
        if isinstance(key, str) and (key.isidentifier() or (root == "stages" and position == 0 and _plain_id(key))):
            text += f".{key}"
        else:
            text += f"[{key!r}]"
    return text


def _plain_id(key: str) -> bool:
    return key.replace("-", "_").isidentifier() and not key.startswith("-") and not key.endswith("-")


@dataclass(frozen=True, slots=True)
class Path:
    """A chain of members in the tree: a root, its static part, and the nodes that follow."""

    root: str
    aspect: Aspect
    keys: tuple[Key, ...]
    rest: tuple[nodes.Expr, ...]
    column: int


def path_of(node: nodes.Expr, source: str) -> Path | None:
    """Return the path that a chain of `.name` and `[…]` spells, or None when it does not start at a name.

    Raises:
        ExpressionSyntaxError: a stage that is not named statically.
    """
    chain: list[nodes.Expr] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        chain.append(node)
        node = node.node
    if not isinstance(node, nodes.Name):
        return None
    chain.reverse()
    keys: list[Key] = []
    for link in chain:
        key = _static_key(link)
        if key is None:
            break
        keys.append(key)
    return make_path(node.name, keys, tuple(chain[len(keys) :]), node.lineno, source)


def make_path(root: str, keys: list[Key], rest: tuple[nodes.Expr, ...], column: int, source: str) -> Path:
    """Return the path with the older spelling of the root and the aspect of a stage resolved."""
    if root == "upstream":
        root = "stages"
    aspect: Aspect = "output"
    if root == "stages":
        if not keys or not isinstance(keys[0], str):
            raise ExpressionSyntaxError(
                "A stage must be named statically: write stages.<id> or stages['<id>'].",
                column=column,
                expression=source,
            )
        if len(keys) > 1 and keys[1] in ("output", "status", "error"):
            aspect = keys[1]  # pyright: ignore[reportAssignmentType]  # one of the three, as the line above says
            del keys[1]
    return Path(root, aspect, tuple(keys), rest, column)


def _static_key(node: nodes.Expr) -> Key | None:
    if isinstance(node, nodes.Getattr):
        return node.attr
    assert isinstance(node, nodes.Getitem)
    arg, sign = node.arg, 1
    if isinstance(arg, nodes.Neg) and isinstance(arg.node, nodes.Const) and type(arg.node.value) is int:
        arg, sign = arg.node, -1
    if isinstance(arg, nodes.Const) and type(arg.value) is int:
        return sign * arg.value
    return arg.value if isinstance(arg, nodes.Const) and type(arg.value) is str else None
