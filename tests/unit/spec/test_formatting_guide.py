"""The guide to the format says nothing that is not so."""

from __future__ import annotations

import re
from pathlib import Path

from flowmason_ray.spec.formats import FORMATS
from flowmason_ray.spec.formatting import format_pipeline
from flowmason_ray.spec.input_schema import apply_input_schema
from flowmason_ray.spec.loader import load_pipeline_text
from flowmason_ray.spec.parsing import MAX_DEPTH
from flowmason_ray.spec.reading import MAX_BYTES

GUIDE = (Path(__file__).parents[3] / "docs" / "guide" / "format.md").read_text(encoding="utf-8")


def test_the_example_is_valid_and_canonical():
    example = GUIDE.partition("```json\n")[2].partition("```")[0]
    pipeline = load_pipeline_text(example).pipeline
    assert format_pipeline(example).decode() == example
    assert pipeline.sample_input is not None
    assert apply_input_schema(pipeline.input_schema, pipeline.sample_input)["greeting"] == "Hello"


def test_links_lead_to_headings():
    headings = {line.lstrip("# ").lower() for line in GUIDE.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", GUIDE)) <= headings


def test_limits_and_formats_are_those_of_the_code():
    assert f"more than {MAX_DEPTH} levels" in GUIDE
    assert f"at most {MAX_BYTES // 1024**2} MiB" in GUIDE
    listed = GUIDE.partition("`format` is checked: ")[2].partition(". Another")[0]
    assert set(re.findall(r"`([\w-]+)`", listed)) == set(FORMATS)
