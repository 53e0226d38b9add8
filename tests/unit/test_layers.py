"""What the import contracts cannot say: how modules are written, and what an import drags in."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "flowmason_ray"

DECIDING = ("plan", "type_check", "control_flow", "retry", "events", "commands", "run_state")
"""The parts of `engine` that must give the same answer for the same events; the contract of that name lists them too."""

DRAWS = {"now", "utcnow", "today", "uuid1", "uuid4", "open", "print"}
"""Calls that reach for a clock, for randomness or for the world, whatever object they are called on."""

HEAVY = ("ray", "polars", "pyarrow", "altair", "vl_convert", "httpx", "jsonschema", "rich", "typer", "asyncio")
"""What `import flowmason_ray` must not pay for."""


def deciding_modules() -> Iterator[Path]:
    for name in DECIDING:
        yield from (PACKAGE / "engine").glob(f"{name}.py")
        yield from (PACKAGE / "engine" / name).rglob("*.py")


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield name, node.lineno
                case _:
                    pass


def imported(tree: ast.AST) -> set[str]:
    """Return the top-level names of everything that is imported anywhere in a module, lazily too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("file", list(deciding_modules()), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_what_decides_draws_nothing_from_the_world(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert [f"{file.name}:{line}: {name}()" for name, line in calls(tree) if name in DRAWS] == []


def test_unit_tests_do_not_import_ray() -> None:
    files = sorted((ROOT / "tests" / "unit").rglob("*.py"))
    assert Path(__file__) in files
    assert [str(f) for f in files if "ray" in imported(ast.parse(f.read_text(encoding="utf-8")))] == []


def test_every_module_says_why_it_exists() -> None:
    silent = [
        str(f.relative_to(ROOT))
        for f in sorted(PACKAGE.rglob("*.py"))
        if not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_no_module_is_named_like_the_standard_library_or_ray() -> None:
    """`python flowmason_ray/x/queue.py` and tools that put a folder on the path would find ours first."""
    taken = (sys.stdlib_module_names | {"ray"}) - {"__future__", "__main__"}
    ours = {f.stem for f in PACKAGE.rglob("*.py")} | {
        d.name for d in PACKAGE.rglob("*") if (d / "__init__.py").is_file()
    }
    assert sorted(ours & taken) == []


def test_importing_the_package_is_light() -> None:
    code = "import json, sys; before = set(sys.modules); import flowmason_ray; print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    new = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert sorted(new & set(HEAVY)) == []
