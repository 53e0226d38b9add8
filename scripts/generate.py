"""Write every file, and every part of a file, that is generated from the models.

    python scripts/generate.py            writes what is stale
    python scripts/generate.py --check    writes nothing; exits 1 and names the files when something is stale

Generated parts of documents stand between `<!-- generated:NAME -->` and `<!-- /generated -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from flowmason_ray import connections, settings
from flowmason_ray.pipeline_tests import cases
from flowmason_ray.pipeline_tests import json_schema as test_schema
from flowmason_ray.spec import pipeline
from flowmason_ray.spec.json_schema import SCHEMA_FILE, schema_bytes
from flowmason_ray.spec.reference import field_table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from component_reference import component_reference, component_table  # noqa: E402  # it lies beside this file

PART = re.compile(r"(<!-- generated:(?P<name>[\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)

FILES: Mapping[Path, Callable[[], bytes]] = {
    SCHEMA_FILE: schema_bytes,
    test_schema.SCHEMA_FILE: test_schema.case_schema_bytes,
}
"""Files that are generated as a whole."""

MODELS: Mapping[str, type[pipeline.Model]] = {
    "pipeline": pipeline.Pipeline,
    "stage": pipeline.Stage,
    "retry": pipeline.Retry,
    "cache": pipeline.Cache,
    "llm-settings": pipeline.LlmSettings,
    "resources": pipeline.Resources,
    "placement": pipeline.Placement,
    "federation": pipeline.Federation,
    "defaults": pipeline.Defaults,
    "budget": pipeline.Budget,
    "composition": pipeline.Composition,
    "triggers": pipeline.Triggers,
    "test-file": cases.CaseFile,
    "test-case": cases.Case,
    "test-mock": cases.Mock,
    "test-answer": cases.Answer,
    "test-mock-error": cases.MockError,
    "test-assertion": cases.Assertion,
    "test-expected-error": cases.ExpectedError,
}
"""Models of the format, each with its table."""


PARTS: Mapping[str, Callable[[], str]] = {
    **{name: partial(field_table, model) for name, model in MODELS.items()},
    "components": lambda: component_table("docs/guide/components-reference.md"),
    "components-reference": lambda: component_reference(ROOT / "examples"),
    "project": lambda: field_table(settings.ProjectSettings),
    "project-testing": lambda: field_table(settings.TestingSettings),
    "project-stores": lambda: field_table(settings.StoreSettings),
    "project-mcp": lambda: field_table(connections.McpServer),
    "project-retrieval": lambda: field_table(settings.RetrievalSettings),
    "project-ray": lambda: field_table(settings.RaySettings),
    "project-datasets": lambda: field_table(settings.DatasetSettings),
    "project-http": lambda: field_table(settings.HttpSettings),
    "project-providers": lambda: field_table(settings.ProviderSettings),
    "project-engines": lambda: field_table(settings.EngineResources),
    "project-keys": lambda: field_table(settings.KeySource),
    "project-limits": lambda: field_table(settings.ProviderLimits),
    "project-prices": lambda: field_table(settings.ModelPrices),
    "project-llm": lambda: field_table(settings.ModelDefaults),
    **{f"connection-{name}": partial(field_table, model) for name, model in connections.CONNECTION_TYPES.items()},
}
"""Every part that documents may ask for, by the name in the marker."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Write generated files.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file is stale")
    check: bool = parser.parse_args(arguments).check
    stale = {path: content for path, content in wanted().items() if current(path) != content}
    for path, content in stale.items():
        name = path.relative_to(ROOT)
        if check:
            print(f"{name} is stale: run 'python scripts/generate.py'.", file=sys.stderr)
        else:
            path.write_bytes(content)
            print(f"wrote {name}")
    return 1 if check and stale else 0


def wanted() -> dict[Path, bytes]:
    """Return what every generated file, and every document with a generated part, should contain."""
    made = {path: make() for path, make in FILES.items()}
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if PART.search(text):
            made[path] = PART.sub(generated_part, text).encode()
    return made


def generated_part(match: re.Match[str]) -> str:
    """Return a marked part with its content made anew."""
    name = match["name"]
    if name not in PARTS:
        raise SystemExit(f"There is no generated part {name!r}; known: {', '.join(PARTS)}.")
    return f"{match[1]}{PARTS[name]()}{match[3]}"


def current(path: Path) -> bytes | None:
    """Return a file's content, or None when there is no such file."""
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
