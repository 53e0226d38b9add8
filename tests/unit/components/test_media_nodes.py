"""Audio and pictures through OpenAI's SDK and a server that speaks its API: files of the project, bytes of other stages."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components.builtin import media
from flowmason_ray.errors import PermanentError, StageError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import LlmServer
from tests.llm_kit import entry, model_server
from tests.unit.components.test_text_nodes import run

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SEEN = {"description": "One red point.", "objects": ["point"], "text": ""}


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with model_server() as running:
        yield running


def asking(server: LlmServer, project: Path, provider: str = "openai", **more: Any) -> RecordingContext:
    settings = ProjectSettings.model_validate({"providers": server.providers(**more)})
    return RecordingContext(project_dir=project, settings=settings, llm_settings={"provider": provider})


@pytest.fixture
def context(server: LlmServer, tmp_path: Path) -> RecordingContext:
    return asking(server, tmp_path)


def refused(context: RecordingContext, name: str, **config: Any) -> str:
    with pytest.raises(PermanentError) as caught:
        run(context, name, **config)
    return str(caught.value.code)


def test_a_recording_is_written_down(server: LlmServer, context: RecordingContext, tmp_path: Path):
    (tmp_path / "talk.mp3").write_bytes(b"ID3 some sound")
    server.says("Good morning.")
    output = run(context, "transcriber", path="talk.mp3", language="en", prompt="Names: Ada")
    assert (output.text, output.language, output.model) == ("Good morning.", "en", "gpt-test")
    (asked,) = server.requests
    assert b"ID3 some sound" in asked.raw
    assert b'filename="audio.mp3"' in asked.raw
    assert b"Names: Ada" in asked.raw
    server.says("From bytes.")
    encoded = base64.b64encode(b"RIFF sound").decode()
    assert run(context, "transcriber", audio_base64=encoded).text == "From bytes."
    assert b'filename="audio.wav"' in server.requests[-1].raw


TOKENS = {
    "type": "tokens", "input_tokens": 90, "output_tokens": 10, "total_tokens": 100,
    "input_token_details": {"audio_tokens": 80, "text_tokens": 10},
}  # fmt: skip
PRICES = {"*": {"input": 1, "output": 10, "audio_hour": 0.36, "characters": 15}}


@pytest.mark.parametrize(
    ("told", "counted", "cost_usd"),
    [
        ({"usage": TOKENS}, {"input_tokens": 90, "output_tokens": 10, "audio_tokens": 80}, 0.00019),
        ({"usage": {"type": "duration", "seconds": 30.5}}, {"audio_s": 30.5}, 30.5 / 3600 * 0.36),
        ({"duration": 7.25}, {"audio_s": 7.25}, 7.25 / 3600 * 0.36),
        ({}, {}, None),
    ],
    ids=["tokens", "seconds", "how long it is", "nothing"],
)
def test_what_the_service_says_of_listening_is_counted(
    told: dict[str, Any], counted: dict[str, Any], cost_usd: float | None, server: LlmServer, tmp_path: Path
):
    context = asking(server, tmp_path, prices=PRICES)
    server.fails(503, retry_after="0")
    server.says("Hello.", more=told)
    said = run(context, "transcriber", audio_base64=base64.b64encode(b"RIFF").decode())
    assert said.duration_s == counted.get("audio_s")
    found = entry(context)
    names = ("audio_tokens", "audio_s", "characters", "cost_usd", "unpriced_calls")
    expected = {"input_tokens": 0, "output_tokens": 0, **counted}
    expected |= {"unpriced_calls": 1} if cost_usd is None else {"cost_usd": pytest.approx(cost_usd)}
    assert {name: found[name] for name in ("input_tokens", "output_tokens", *names) if name in found} == expected
    assert (found["calls"], found["failed_calls"]) == (2, 1)


def test_what_is_spoken_is_counted_in_characters(server: LlmServer, tmp_path: Path):
    context = asking(server, tmp_path, prices=PRICES)
    run(context, "text_to_speech", text="Grüß Gott.")
    assert (entry(context)["characters"], entry(context)["cost_usd"]) == (10, pytest.approx(10 * 15e-6))
    context = asking(server, tmp_path, prices={"*": {"input": 1, "output": 10}})
    run(context, "text_to_speech", text="Grüß Gott.")
    assert "cost_usd" not in entry(context), "a price for tokens says nothing of characters"
    assert entry(context)["unpriced_calls"] == 1


def test_a_text_is_spoken_into_a_file(server: LlmServer, context: RecordingContext, tmp_path: Path):
    output = run(context, "text_to_speech", text="Good evening.", path="out/hello.wav", format="wav", voice="echo")
    assert output.path == "out/hello.wav"
    assert output.audio_base64 is None
    written = (tmp_path / "out/hello.wav").read_bytes()
    assert written == b"RIFFGood evening."
    assert output.size_bytes == len(written)
    (asked,) = server.requests
    assert (asked.body["voice"], asked.body["response_format"]) == ("echo", "wav")
    again = run(context, "text_to_speech", text="Good evening.", format="wav")
    assert base64.b64decode(again.audio_base64) == written
    assert again.path is None


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_picture_is_described(server: LlmServer, tmp_path: Path, provider: str):
    context = asking(server, tmp_path, provider)
    (tmp_path / "picture.bin").write_bytes(PIXEL)
    server.says_json(SEEN)
    output = run(context, "image_describe", path="picture.bin", question="What is it?", detail="brief")
    assert output.model_dump(include=set(SEEN)) == SEEN
    assert output.usage.output_tokens > 0
    asked = server.requests[0]
    assert "What is it?" in asked.last
    assert base64.b64encode(PIXEL) in asked.raw
    assert b"image/png" in asked.raw
    server.says_json(SEEN)
    run(context, "image_describe", image_base64=base64.b64encode(PIXEL).decode())
    server.says_json(SEEN)
    run(context, "image_describe", url="https://93.184.215.14/a.png")
    assert b"https://93.184.215.14/a.png" in server.requests[-1].raw


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/secret.png",
        "http://localhost/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/a.png",
        "http://[::ffff:10.0.0.1]/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://10.1.2.3/a.png",
    ],
)
def test_a_server_is_sent_to_no_inside_address(server: LlmServer, context: RecordingContext, url: str):
    """A server of one's own fetches the picture from where it stands."""
    assert refused(context, "image_describe", url=url) == "http_blocked"
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https://93.184.215.14@10.1.2.3/a",
        "https://10.1.2.3\\@93.184.215.14/",
        "https://[::1",
        "http://a:b/",
        "http://a b/",
    ],
)
def test_an_address_that_may_be_read_in_two_ways_is_refused(server: LlmServer, context: RecordingContext, url: str):
    assert refused(context, "image_describe", url=url) == "invalid_config"
    assert server.requests == []


def test_an_inside_address_that_the_project_allows_is_sent(server: LlmServer, tmp_path: Path):
    settings = ProjectSettings.model_validate(
        {"providers": server.providers(), "http": {"allow_hosts": ["127.0.0.1:8080"]}}
    )
    context = RecordingContext(project_dir=tmp_path, settings=settings, llm_settings={"provider": "openai"})
    server.says_json(SEEN)
    run(context, "image_describe", url="http://127.0.0.1:8080/a.png")
    assert b"http://127.0.0.1:8080/a.png" in server.requests[-1].raw


def test_files_outside_of_the_project_are_refused(server: LlmServer, context: RecordingContext, tmp_path: Path):
    outside = tmp_path.parent / "outside.wav"
    outside.write_bytes(b"x")
    (tmp_path / "link.wav").symlink_to(outside)
    (tmp_path / "folder").mkdir()
    assert refused(context, "transcriber", path="../outside.wav") == "path_outside_project"
    assert refused(context, "transcriber", path="link.wav") == "path_outside_project"
    assert refused(context, "image_describe", path="link.wav") == "path_outside_project"
    assert refused(context, "text_to_speech", text="a", path="../new.mp3") == "path_outside_project"
    assert refused(context, "text_to_speech", text="a", path="folder") == "is_a_directory"
    assert refused(context, "transcriber", path="none.wav") == "file_not_found"
    assert server.requests == [], "nothing is paid for that cannot be used"


def test_what_is_given_is_checked_before_anybody_is_asked(
    server: LlmServer, context: RecordingContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "notes.txt").write_text("no picture")
    for name, config in (
        ("transcriber", {}),
        ("transcriber", {"path": "a", "audio_base64": "YQ=="}),
        ("transcriber", {"audio_base64": "not base64!"}),
        ("image_describe", {}),
        ("image_describe", {"url": "https://example.com/a.png", "path": "notes.txt"}),
        ("image_describe", {"path": "notes.txt"}),
    ):
        assert refused(context, name, **config) == "invalid_config"
    monkeypatch.setattr(media, "MAX_MEDIA_BYTES", 4)
    assert refused(context, "transcriber", path="notes.txt") == "file_too_large"
    assert refused(context, "transcriber", audio_base64=base64.b64encode(b"12345").decode()) == "file_too_large"
    assert server.requests == []


def test_a_provider_without_audio_says_so(server: LlmServer, tmp_path: Path):
    context = asking(server, tmp_path, "anthropic")
    (tmp_path / "talk.mp3").write_bytes(b"ID3")
    assert refused(context, "transcriber", path="talk.mp3") == "not_supported_by_provider"
    assert refused(context, "text_to_speech", text="a", path="out/a.mp3") == "not_supported_by_provider"
    assert not (tmp_path / "out").exists()


def test_a_failure_of_the_provider_ends_the_attempt(server: LlmServer, context: RecordingContext, tmp_path: Path):
    (tmp_path / "talk.mp3").write_bytes(b"ID3")
    server.fails(401)
    with pytest.raises(StageError) as caught:
        run(context, "transcriber", path="talk.mp3")
    assert caught.value.code == "provider_refused_key"
