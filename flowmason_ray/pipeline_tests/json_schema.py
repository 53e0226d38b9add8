"""The JSON Schema of test files, for editors: generated from the models, beside this module, and shipped."""

from __future__ import annotations

from pathlib import Path

from flowmason_ray.pipeline_tests.cases import CaseFile
from flowmason_ray.spec.json_schema import document_schema, written_schema

SCHEMA_FILE = Path(__file__).with_name("test.schema.json")


def case_schema_bytes() -> bytes:
    """Return the content of the generated file."""
    return written_schema(document_schema(CaseFile, title=CaseFile.TITLE))
