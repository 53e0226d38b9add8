"""The models themselves."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from flowmason_ray.spec.pipeline import Model, Pipeline, Retry, Stage, field_order, slugify


def all_models() -> list[type[Model]]:
    return Model.__subclasses__()


@pytest.mark.parametrize("model", all_models(), ids=lambda m: m.__name__)
def test_every_field_is_described(model: type[Model]):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_defaults():
    pipeline = Pipeline.model_validate({"name": "Daily  Report (EU)", "stages": [{"id": "a", "component_type": "x"}]})
    assert pipeline.id == "daily-report-eu"
    assert pipeline.version == "1.0.0"
    stage = pipeline.by_id["a"]
    assert (stage.on_error, stage.enabled, stage.cache, stage.retry) == ("fail", True, False, None)
    assert Retry() == Retry(
        max_attempts=1,
        initial_delay_ms=1000,
        max_delay_ms=30_000,
        backoff_multiplier=2.0,
        jitter=0.25,
        retry_on=[],
    )


def test_a_written_id_is_kept():
    assert Pipeline.model_validate({"id": "Mine", "name": "p"}).id == "Mine"


def test_whole_numbers_may_have_a_point():
    stage = Stage.model_validate({"id": "a", "component_type": "x", "timeout_ms": 5.0})
    assert stage.timeout_ms == 5
    assert type(stage.timeout_ms) is int


def test_frozen():
    stage = Stage.model_validate({"id": "a", "component_type": "x"})
    with pytest.raises(ValidationError):
        stage.id = "b"  # pyright: ignore[reportAttributeAccessIssue]  # the point of the test


def test_equal_and_picklable():
    document = {"name": "p", "x-a": 1, "stages": [{"id": "a", "component_type": "x", "retry": {"max_attempts": 2}}]}
    one, other = Pipeline.model_validate(document), Pipeline.model_validate(document)
    assert one.by_id["a"].retry == Retry(max_attempts=2)
    assert one == other
    assert pickle.loads(pickle.dumps(one)) == other


def test_field_order_is_of_written_keys():
    assert field_order(Pipeline)[:3] == ("$schema", "id", "name")
    assert "x-" not in field_order(Stage)


@pytest.mark.parametrize(("name", "slug"), [("A b_C", "a-b-c"), ("Größe", "größe"), ("!!", "pipeline")])
def test_slugify(name: str, slug: str):
    assert slugify(name) == slug
