"""The registry: built-in, the project's own, in place; names that are taken; files that cannot be imported."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components import registry as registry_module
from flowmason_ray.components.base import InvalidComponent, operator, spec_of
from flowmason_ray.components.builtin import ALIASES, BUILTIN
from flowmason_ray.components.registry import Registry, load_project_module
from tests.engine_kit import Echo

SOURCE = '''
from pydantic import BaseModel
from flowmason_ray import operator

@operator(effect="pure")
class {name}:
    """Says {name}."""
    class Input(BaseModel): ...
    class Output(BaseModel): ...
    def execute(self, input, context):
        return self.Output()
'''


def write(folder: Path, file: str, *names: str) -> Path:
    path = folder / file
    path.write_text("".join(SOURCE.format(name=name) for name in names))
    return path


def alone(*dirs: Path) -> Registry:
    return Registry(dirs, entry_points=False)


def test_what_is_listed_can_be_looked_up(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", "WordCount")
    registry = alone(tmp_path)
    assert registry.names() == sorted({*BUILTIN, "word_count"})
    for name in ("word_count", "word-count", " word_count "):
        found = registry.get(name)
        assert found is not None
        assert (found.name, found.file) == ("word_count", tmp_path / "mine.py")
    assert registry.get("nothing") is None
    assert set(ALIASES.values()) <= set(BUILTIN)


def test_looking_up_a_built_in_does_not_import_the_project(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    registry = alone(tmp_path)
    assert registry.get("foreach") is registry.get("foreach")
    with pytest.raises(InvalidComponent, match=r"broken\.py: ZeroDivisionError"):
        registry.get("mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import nothing_like_this\n", "ModuleNotFoundError"),
        ("raise SystemExit(1)\n", "SystemExit"),
        ("from flowmason_ray import operator\n@operator\nclass Bad: ...\n", "nested class 'Input'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_clear_error(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    for _ in range(2):
        with pytest.raises(InvalidComponent, match=words) as caught:
            load_project_module(file)
        assert "bad.py" in caught.value.message


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidComponent, match="Cannot read"):
        load_project_module(tmp_path / "none.py")


def test_a_file_is_imported_once_and_anew_when_it_was_edited(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.py", "One")
    first = load_project_module(file)
    assert load_project_module(file) is first
    write(tmp_path, "mine.py", "Two")
    assert load_project_module(file) is not first


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "Same")
    write(tmp_path, "b.py", "Same")
    with pytest.raises(InvalidComponent, match=r"'same' is declared twice: in .*a\.py and in .*b\.py"):
        alone(tmp_path).names()


def test_a_built_in_name_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", "Foreach")
    with pytest.raises(InvalidComponent, match="has the name of a built-in"):
        alone(tmp_path).names()
    with pytest.raises(InvalidComponent, match="taken by a built-in"):
        alone().add(operator(name="logger")(type("Logger", (Echo,), {})))


def test_private_files_are_skipped_and_missing_directories_are_empty(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("1 / 0")
    assert alone(tmp_path, tmp_path / "none").names() == sorted(BUILTIN)


def test_components_in_place() -> None:
    registry = alone()
    assert registry.add(Echo) is registry.get("echo")
    assert "echo" in registry.names()
    assert Echo in {spec.create for spec in [registry.get("echo")] if spec}
    with pytest.raises(InvalidComponent, match="is not a component"):
        registry.add(int)


# -- entry points -----------------------------------------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, **points: str) -> Registry:
    found = [EntryPoint(name, value, "flowmason.components") for name, value in points.items()]

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == "flowmason.components"
        return found

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    return Registry()


def test_installed_distributions_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = installed(monkeypatch, one="tests.engine_kit:Echo", all="tests.engine_kit")
    assert registry.get("echo") is spec_of(Echo)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nothing.like.this", "Cannot load components from entry point 'x'"),
        ("tests.engine_kit:Player", "neither a module nor a component class"),
    ],
)
def test_an_entry_point_that_is_wrong_is_named(value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidComponent, match=words):
        installed(monkeypatch, x=value).names()


def test_entry_points_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(**wanted: Any) -> Any:
        raise AssertionError("not asked for")

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    assert alone().names() == sorted(BUILTIN)
