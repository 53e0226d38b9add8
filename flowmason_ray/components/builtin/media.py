"""`transcriber`, `text_to_speech` and `image_describe`: recordings and pictures, through providers that take or make them.

Files are the project's, named relative to it; bytes that come from another stage are base64, which the engine keeps as a blob
when there is much of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.model_node import Answered, Asking, ask, facts_of, record, several, words
from flowmason_ray.components.builtin.safe_addresses import judged_addresses
from flowmason_ray.components.files import existing_file, file_errors, relative, resolve_inside, write_atomic
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.models import Audio, Image
from flowmason_ray.errors import PermanentError

MAX_MEDIA_BYTES = 25 * 1024 * 1024
"""What is sent at once: OpenAI's limit for a recording, more than any provider takes for a picture."""

_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}
_PLAIN = re.compile(r"[^\s\\\x00-\x1f\x7f]+")
"""No spaces, no backslashes: some take these for the end of the host, others do not."""
_DETAIL = {
    "brief": "Answer in one or two sentences.",
    "normal": "",
    "full": "Describe everything that can be seen, part by part, and copy out all words.",
}


@node(cost="io", category="audio", tags=("llm", "speech"))
class Transcriber:
    """Writes down what is said in a recording."""

    class Input(BaseModel):
        """The recording."""

        model_config = closed({"path": "data/talk.wav", "language": "en"})

        path: str | None = Field(default=None, description="The recording's file, relative to the project.")
        audio_base64: str | None = Field(default=None, description="Or the recording itself, in base64.")
        format: str | None = Field(
            default=None,
            pattern="^[a-z0-9]{2,5}$",
            description="What its file would end in, such as `wav` or `mp3`; null: what `path` ends in, else `wav`.",
        )
        language: str | None = Field(default=None, description="The language that is spoken, as a code such as `en`.")
        prompt: str | None = Field(default=None, description="Names and words that occur, to get them right.")

    class Output(BaseModel):
        """What is said."""

        text: str = Field(description="What is said.")
        language: str | None = Field(description="The language, where the provider tells it or it was given.")
        duration_s: float | None = Field(description="How long the recording is, where the provider tells it.")
        model: str = Field(description="The model that was asked.")
        provider: str = Field(description="The provider that was asked.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            PermanentError: `invalid_config`, `file_not_found`, `path_outside_project`, `file_too_large`,
                `not_supported_by_provider`.
            StageError: there is no answer.
        """
        data = _bytes(context, input.path, input.audio_base64, "audio_base64")
        ending = Path(input.path).suffix.lstrip(".").lower() if input.path else ""
        said = await context.models.transcribe(
            Audio(data=data, format=input.format or ending or "wav"), language=input.language, prompt=input.prompt
        )
        return self.Output(
            text=said.text,
            language=said.language,
            duration_s=said.duration_s,
            model=said.model,
            provider=said.provider,
        )


@node(cost="io", category="audio", tags=("llm", "speech"))
class TextToSpeech:
    """Speaks a text: writes a recording into a file of the project, or returns it."""

    class Input(BaseModel):
        """The text, and the voice."""

        model_config = closed({"text": "It rains.", "path": "out/rain.wav", "format": "wav"})

        text: str = Field(description="The text.", min_length=1)
        path: str | None = Field(
            default=None, description="The file to write, relative to the project; null: the recording is returned."
        )
        voice: str = Field(default="alloy", description="The voice, as the provider names it.")
        format: Literal["mp3", "wav", "opus", "aac", "flac", "pcm"] = Field(
            default="mp3", description="The form of the recording."
        )

    class Output(BaseModel):
        """The recording."""

        path: str | None = Field(description="The file that was written; null without one.")
        audio_base64: str | None = Field(description="The recording in base64; null when it was written into a file.")
        format: str = Field(description="The form of the recording.")
        size_bytes: int = Field(description="How large it is.")
        model: str = Field(description="The model that was asked.")
        provider: str = Field(description="The provider that was asked.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask, and write the file whole or not at all.

        Raises:
            PermanentError: `path_outside_project`, `is_a_directory`, `file_error`, `not_supported_by_provider`.
            StageError: there is no answer.
        """
        file = None if input.path is None else resolve_inside(context.project_dir, input.path)
        if file is not None and file.is_dir():  # before anything is paid for
            raise PermanentError(f"{input.path!r} is a directory, not a file.", code="is_a_directory")
        made = await context.models.speak(input.text, voice=input.voice, format=input.format)
        if file is not None:
            with file_errors(str(input.path)):
                write_atomic(file, lambda temporary: _put(temporary, made.data))
        return self.Output(
            path=None if file is None else relative(context.project_dir, file),
            audio_base64=base64.b64encode(made.data).decode("ascii") if file is None else None,
            format=made.format,
            size_bytes=len(made.data),
            model=made.model,
            provider=made.provider,
        )


@node(cost="io", category="vision", tags=("llm", "images"), prompts=("image_describe",), raw=("prompt_version",))
class ImageDescribe:
    """Says what a picture shows, or answers a question about it."""

    class Input(Asking):
        """The picture, and what is asked about it."""

        model_config = closed({"path": "data/sky.png", "question": "Will it rain?"})

        path: str | None = Field(default=None, description="The picture's file, relative to the project.")
        image_base64: str | None = Field(default=None, description="Or the picture itself, in base64.")
        url: str | None = Field(
            default=None,
            pattern="^https?://",
            description="Or where the provider finds it; it fetches it itself. No private address, unless `http.allow_hosts` lists it.",
        )
        question: str | None = Field(default=None, description="What is asked; null: what the picture shows.")
        detail: Literal["brief", "normal", "full"] = Field(default="normal", description="How much is said.")

    class Output(Answered):
        """What the picture shows."""

        description: str = Field(description="What it shows, or the answer to the question.")
        objects: list[str] = Field(description="The things that can be seen in it.")
        text: str = Field(description="The words that can be read in it; empty when there are none.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            PermanentError: `invalid_config`, `file_not_found`, `path_outside_project`, `file_too_large`, `http_blocked`.
            TemporaryError: the host of 'url' cannot be resolved (`http_connect`).
            StageError: there is no answer that fits.
        """
        if input.url is not None:
            if input.path is not None or input.image_base64 is not None:
                raise PermanentError("Give one of 'path', 'image_base64' and 'url'.", code="invalid_config")
            await _judge(input.url, context)
            image = Image(url=input.url)
        else:
            data = _bytes(context, input.path, input.image_base64, "image_base64")
            image = Image(data=data, media_type=_image_type(data, input.path))
        schema = record(
            description=words("What the picture shows, or the answer to the question."),
            objects=several("The things that can be seen."),
            text=words("The words that can be read in it; empty when there are none."),
        )
        values: dict[str, Any] = {"question": input.question or "", "detail": _DETAIL[input.detail]}
        answer = await ask(context, input, "image_describe", values, schema, beside=[image])
        return self.Output(**answer.data, **facts_of(answer))


async def _judge(url: str, context: Context) -> None:
    """Look at an address before a provider is told to fetch from it: a server of one's own stands among private addresses.

    What parsers read differently is refused. Where the provider looks the name up once more, or follows redirects, is its own affair.

    Raises:
        PermanentError: it is no address (`invalid_config`), or a private one that the project does not allow (`http_blocked`).
        TemporaryError: its host cannot be resolved (`http_connect`).
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        plain = parts.username is None and _PLAIN.fullmatch(url) is not None
    except ValueError:  # of the port, or of brackets
        host, port, plain = None, 0, False
    if not host or not plain:
        raise PermanentError(f"'url' is not the address of a picture: {url!r}.", code="invalid_config")
    await judged_addresses(host, port, list(context.settings.http.allow_hosts))


def _bytes(context: Context, path: str | None, encoded: str | None, field: str) -> bytes:
    """Return what is to be sent: of a file of the project, or decoded.

    Raises:
        PermanentError: it is not given once, cannot be read, or is too large.
    """
    if (path is None) == (encoded is None):
        raise PermanentError(f"Give either 'path' or {field!r}.", code="invalid_config")
    if path is not None:
        file = existing_file(context.project_dir, path)
        with file_errors(path):
            if (size := file.stat().st_size) > MAX_MEDIA_BYTES:
                raise PermanentError(_too_large(size), code="file_too_large")
            return file.read_bytes()
    try:
        data = base64.b64decode(encoded or "", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise PermanentError(f"{field!r} is not base64: {exc}.", code="invalid_config") from exc
    if len(data) > MAX_MEDIA_BYTES:
        raise PermanentError(_too_large(len(data)), code="file_too_large")
    return data


def _too_large(size_bytes: int) -> str:
    return f"It has {size_bytes} bytes; providers are sent up to {MAX_MEDIA_BYTES} at once. Split it first."


def _image_type(data: bytes, path: str | None) -> str:
    """Return a picture's media type: by its first bytes, else by its file's name."""
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    known = _IMAGE_TYPES.get(Path(path).suffix.lower()) if path else None
    if known is None:
        raise PermanentError("The picture is neither PNG, JPEG, GIF nor WebP.", code="invalid_config")
    return known


def _put(file: Path, data: bytes) -> None:
    file.write_bytes(data)
