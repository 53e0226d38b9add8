"""Items of loops over tables and files are the same JSON in-process and on Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import run
from tests.cli_kit import pipeline, stage

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize("items", ["{{stages.read.table}}", {"dataset": "days.csv"}], ids=["table", "file"])
def test_dates_of_items_are_texts(items: Any, tmp_path: Path) -> None:
    (tmp_path / "days.csv").write_text("day,n\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n", encoding="utf-8")
    said = pipeline(
        stage("read", "table_read", config={"path": "days.csv"}),
        stage(
            "each",
            "foreach",
            config={
                "items": items,
                "loop_stages": ["say"],
                "filter_expression": "item.day >= '2024-01-02'",
                "collect": {"day": "{{ item.day }}", "said": "{{ stages.say.result }}"},
            },
        ),
        stage("say", "json_transform", config={"data": "{{ item.day }}: {{ item.n }}"}),
        output="{{ stages.each.results }}",
    )
    (tmp_path / "flowmason.json").write_text("{}", encoding="utf-8")
    file = tmp_path / "days.pipeline.json"
    file.write_text(json.dumps(said), encoding="utf-8")
    expected = [{"day": f"2024-01-0{n}", "said": f"2024-01-0{n}: {n}"} for n in (2, 3)]
    for on in ("local", "ray"):
        assert run(file, on=on).raise_for_status().output == expected, on
