"""`s3` against a real server that speaks its protocol."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import boto3  # pyright: ignore[reportMissingTypeStubs]  # it has no types
import pytest

from flowmason_ray.components.builtin.s3 import S3
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.servers_kit import free_port


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    name = f"b-{uuid4().hex[:12]}"
    cast("Any", boto3).client("s3", endpoint_url=s3_endpoint, aws_access_key_id="id", aws_secret_access_key="secret-key", region_name="us-east-1").create_bucket(Bucket=name)  # fmt: skip
    return name


@pytest.fixture
def context(s3_endpoint: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingContext:
    monkeypatch.setenv("S3_KEY", "secret-key")
    usual = {
        "type": "s3", "endpoint_url": s3_endpoint, "region": "us-east-1", "bucket": bucket,
        "access_key_id": "id", "secret_access_key": {"secret": "S3_KEY"}, "path_style": True,
    }  # fmt: skip
    connections = {
        "lake": usual,
        "bare": {**usual, "bucket": None},
        "nowhere": {**usual, "endpoint_url": f"http://127.0.0.1:{free_port()}"},
    }
    return RecordingContext(settings=ProjectSettings.model_validate({"connections": connections}), project_dir=tmp_path)


def do(context: RecordingContext, operation: str, **more: Any) -> S3.Output:
    return S3().execute(S3.Input.model_validate({"connection": "lake", "operation": operation, **more}), context)


def test_objects_go_there_and_come_back(context: RecordingContext, bucket: str) -> None:
    put = do(context, "put", key="a/b.json", content={"n": "ü"}, format="json")
    assert (put.exists, put.size_bytes, put.bucket) == (True, 11, bucket)
    assert do(context, "get", key="a/b.json", format="json").content == {"n": "ü"}
    assert do(context, "get", key="a/b.json").content == '{"n": "ü"}'
    raw = base64.b64encode(b"\xff\x00").decode()
    do(context, "put", key="a/raw", content=raw, format="bytes")
    assert do(context, "get", key="a/raw", format="bytes").content == raw
    copied = do(context, "copy", key="a/raw", destination="c")
    assert (copied.key, copied.size_bytes) == ("c", 2)
    listed = do(context, "list", key="a/")
    assert listed.objects is not None
    assert [(o["key"], o["size_bytes"]) for o in listed.objects] == [("a/b.json", 11), ("a/raw", 2)]
    assert (do(context, "list", limit=2).truncated, do(context, "list", limit=3).truncated) == (True, False)
    assert do(context, "list", key="none/").objects == []
    assert do(context, "exists", key="c").exists
    for _ in range(2):  # a repeated attempt is fine
        assert do(context, "delete", key="c").exists is False
    assert do(context, "exists", key="c").exists is False


def test_a_large_object_goes_from_file_to_file_in_parts(context: RecordingContext, tmp_path: Path) -> None:
    content = bytes(range(256)) * 80_000  # 20 MB: more than may be handed on, and several parts
    (tmp_path / "big.bin").write_bytes(content)
    put = do(context, "put", key="big", file="big.bin")
    assert put.etag is not None
    assert put.etag.endswith("-3"), "an upload in parts"
    got = do(context, "get", key="big", file="out/again.bin")
    assert (got.file, got.size_bytes, got.content) == ("out/again.bin", len(content), None)
    again = (tmp_path / "out/again.bin").read_bytes()
    assert hashlib.sha256(again).digest() == hashlib.sha256(content).digest()
    assert context.progressed[-1] == (len(content), len(content))
    with pytest.raises(PermanentError, match="Give 'file'") as caught:
        do(context, "get", key="big")
    assert caught.value.code == "file_too_large"


@pytest.mark.parametrize(
    ("config", "kind", "code", "words"),
    [
        ({"operation": "get", "key": "none"}, PermanentError, "s3_not_found", "no object"),
        ({"operation": "get", "key": "x", "bucket": "no-such"}, PermanentError, "s3_not_found", "no bucket"),
        ({"operation": "get"}, PermanentError, "invalid_input", "needs 'key'"),
        ({"operation": "get", "key": "x", "connection": "bare"}, PermanentError, "invalid_input", "Give 'bucket'"),
        ({"operation": "put", "key": "x"}, PermanentError, "invalid_input", "'content' or 'file'"),
        ({"operation": "put", "key": "x", "content": 3}, PermanentError, "invalid_input", "Use format 'json'"),
        ({"operation": "put", "key": "x", "content": "ü", "format": "bytes"}, PermanentError, "invalid_input", "base64|ASCII"),
        ({"operation": "put", "key": "x", "file": "../up"}, PermanentError, "path_outside_project", "outside"),
        ({"operation": "put", "key": "x", "file": "none"}, PermanentError, "file_not_found", "no file"),
        ({"operation": "put", "key": "x", "file": "here", "bucket": "no-such"}, PermanentError, "s3_not_found", "no bucket"),
        ({"operation": "put", "key": "x", "file": "here", "connection": "nowhere"}, TemporaryError, "s3_unavailable", "be (reached|written)"),
        ({"operation": "copy", "key": "x"}, PermanentError, "invalid_input", "'destination'"),
        ({"operation": "get", "key": "raw"}, PermanentError, "encoding_error", "'utf-8'"),
        ({"operation": "get", "key": "text", "format": "json"}, PermanentError, "invalid_json", "not JSON"),
        ({"operation": "get", "key": "text", "file": "../up"}, PermanentError, "path_outside_project", "outside"),
        ({"operation": "list", "bucket": "B AD"}, PermanentError, "s3_error", "Invalid bucket name"),
        ({"operation": "get", "key": "x", "connection": "nowhere"}, TemporaryError, "s3_unavailable", "cannot be reached"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(
    config: dict[str, Any], kind: type[StageError], code: str, words: str, context: RecordingContext
) -> None:
    do(context, "put", key="raw", content=base64.b64encode(b"\xff").decode(), format="bytes")
    do(context, "put", key="text", content="{")
    (context.project_dir / "here").write_text("here")
    with pytest.raises(kind, match=words) as caught:
        do(context, **config)
    assert caught.value.code == code
    assert "secret-key" not in caught.value.message
    assert str(context.project_dir) not in caught.value.message
