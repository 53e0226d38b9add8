"""Where components are found by name: built-in, installed (entry points), the project's own.

Names resolve lazily and one by one: a pipeline that uses two built-ins imports two modules. A name that is taken twice is
an error, never a silent override.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from flowmason_ray.components.base import (
    CONTENT_ATTRIBUTE,
    PROJECT_MODULE_PREFIX,
    InvalidComponent,
    normalise_name,
    spec_of,
)
from flowmason_ray.components.builtin import ALIASES, BUILTIN
from flowmason_ray.engine.component import ComponentSpec

ENTRY_POINT_GROUP = "flowmason.components"


class Registry:
    """A `Catalogue` over the built-in components, installed distributions and the project's component directories."""

    def __init__(self, component_dirs: Sequence[Path] = (), *, entry_points: bool = True) -> None:
        """
        Args:
            component_dirs: Directories whose `*.py` files declare components; one that does not exist is empty.
            entry_points: Whether installed distributions are searched (entry point group `flowmason.components`).
        """
        self._dirs = tuple(component_dirs)
        self._use_entry_points = entry_points
        self._found: dict[str, ComponentSpec] = {}
        self._others: Mapping[str, ComponentSpec] | None = None

    def get(self, name: str) -> ComponentSpec | None:
        """Return the component called `name`, or None.

        Raises:
            InvalidComponent: a module that declares components cannot be imported, or two declare the same name.
        """
        name = normalise_name(name)
        name = ALIASES.get(name, name)
        found = self._found.get(name)
        if found is None:
            found = _load(name, BUILTIN[name]) if name in BUILTIN else self._foreign().get(name)
            if found is not None:
                self._found[name] = found
        return found

    def names(self) -> Sequence[str]:
        """Return the canonical names of all components, sorted."""
        return sorted({*BUILTIN, *self._foreign()})

    def all(self) -> list[ComponentSpec]:
        """Return every component that can be loaded, sorted by name."""
        return [spec for name in self.names() if (spec := self.get(name)) is not None]

    def add(self, cls: type) -> ComponentSpec:
        """Register a decorated class under its own name, for tests and programs that define components in place."""
        spec = spec_of(cls)
        if spec is None:
            raise InvalidComponent(
                f"Class {cls.__qualname__!r} is not a component: decorate it with @node, @operator or @control_flow."
            )
        if spec.name in BUILTIN:
            raise InvalidComponent(
                f"Component name {spec.name!r} of {cls.__qualname__!r} is taken by a built-in component."
            )
        self._found[spec.name] = spec
        return spec

    def _foreign(self) -> Mapping[str, ComponentSpec]:
        if self._others is None:
            others: dict[str, ComponentSpec] = {}
            for spec in (*self._installed(), *self._project()):
                taken = others.get(spec.name)
                if spec.name in BUILTIN or spec.name in ALIASES:
                    raise InvalidComponent(
                        f"Component {spec.name!r} of {_origin(spec)} has the name of a built-in component; rename it."
                    )
                if taken is not None and (taken.module, taken.qualname) != (spec.module, spec.qualname):
                    raise InvalidComponent(
                        f"Component {spec.name!r} is declared twice: in {_origin(taken)} and in {_origin(spec)}."
                    )
                others[spec.name] = spec
            self._others = others
        return {**self._others, **{n: s for n, s in self._found.items() if n not in BUILTIN}}

    def _installed(self) -> Iterator[ComponentSpec]:
        if not self._use_entry_points:
            return
        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                target = point.load()
            except (Exception, SystemExit) as exc:  # foreign code runs here: any failure becomes one clear error
                raise InvalidComponent(
                    f"Cannot load components from entry point {point.name!r} ({point.value}): {exc!r}."
                ) from exc
            if isinstance(target, ModuleType):
                yield from _specs_in(target)
            elif isinstance(target, type) and (spec := spec_of(target)) is not None:
                yield spec
            else:
                raise InvalidComponent(
                    f"Entry point {point.name!r} ({point.value}) is neither a module nor a component class."
                )

    def _project(self) -> Iterator[ComponentSpec]:
        for folder in self._dirs:
            for file in sorted(folder.glob("*.py")):
                if file.name != "__init__.py":
                    yield from _specs_in(load_project_module(file))


def load_project_module(file: Path) -> ModuleType:
    """Import one file of a project's `components/` under a name of its own, and return the module.

    The name is derived from the file's path and content, so the same file imports once and an edited one anew.

    Raises:
        InvalidComponent: the file cannot be read, or running it raises.
    """
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise InvalidComponent(f"Cannot read {file}: {exc.strerror}.") from exc
    digest = sha256(str(file.resolve()).encode() + b"\0" + content).hexdigest()[:16]
    name = f"{PROJECT_MODULE_PREFIX}{digest}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InvalidComponent(f"Cannot import {file}.")
    module = importlib.util.module_from_spec(spec)
    setattr(module, CONTENT_ATTRIBUTE, sha256(content).hexdigest())
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except InvalidComponent as exc:
        del sys.modules[name]
        raise InvalidComponent(f"{file}: {exc.message}") from exc
    except (Exception, SystemExit) as exc:  # foreign code runs here: any failure becomes one clear error
        del sys.modules[name]
        raise InvalidComponent(f"Cannot import {file}: {type(exc).__name__}: {exc}.") from exc
    return module


def _specs_in(module: ModuleType) -> Iterator[ComponentSpec]:
    for value in list(vars(module).values()):
        if isinstance(value, type) and value.__module__ == module.__name__ and (spec := spec_of(value)) is not None:
            yield spec


def _load(name: str, target: str) -> ComponentSpec:
    module_name, _, class_name = target.partition(":")
    spec = spec_of(getattr(importlib.import_module(module_name), class_name))
    assert spec is not None, f"{target} is not declared a component"
    assert spec.name == name, f"{target} does not declare {name!r}"
    return spec


def _origin(spec: ComponentSpec) -> str:
    return str(spec.file) if spec.file else f"{spec.module}:{spec.qualname}"
