"""The content of a file or an object, as pipelines hold it: a text, a JSON value, or base64 of its bytes."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

from flowmason_ray.errors import PermanentError

ContentFormat = Literal["text", "json", "bytes"]


def encoded(content: Any, form: ContentFormat, *, encoding: str = "utf-8", indent: int | None = None) -> bytes:
    """Return the bytes that `content` stands for.

    Raises:
        PermanentError: it is not of that form (`invalid_input`), or the encoding cannot say it (`encoding_error`).
    """
    if form == "json":
        return json.dumps(content, ensure_ascii=False, indent=indent).encode("utf-8")
    if not isinstance(content, str):
        raise PermanentError(
            f"Format {form!r} writes a text, and 'content' is of type {type(content).__name__!r}. "
            "Use format 'json' for other values.",
            code="invalid_input",
        )
    if form == "bytes":
        try:
            return base64.b64decode(content, validate=True)
        except ValueError as exc:
            raise PermanentError(f"'content' is not base64: {exc}.", code="invalid_input") from exc
    try:
        return content.encode(encoding)
    except (UnicodeEncodeError, LookupError) as exc:
        raise PermanentError(f"The content cannot be written as {encoding!r}: {exc}.", code="encoding_error") from exc


def decoded(data: bytes, form: ContentFormat, *, of: str, encoding: str = "utf-8") -> Any:
    """Return bytes as a text, as the JSON value that they say, or as base64.

    Args:
        data: The bytes.
        form: As what.
        of: Where they come from, as it reads at the start of a sentence ("File 'a.json'").
        encoding: The encoding of texts; JSON is always UTF-8.

    Raises:
        PermanentError: they are not of that form (`encoding_error`, `invalid_json`).
    """
    if form == "bytes":
        return base64.b64encode(data).decode("ascii")
    used = "utf-8" if form == "json" else encoding
    try:
        text = data.decode(used)
        return json.loads(text) if form == "json" else text
    except (UnicodeDecodeError, LookupError) as exc:
        raise PermanentError(
            f"{of} cannot be read as {used!r}: {exc}. Bytes are read with format 'bytes'.", code="encoding_error"
        ) from exc
    except json.JSONDecodeError as exc:
        raise PermanentError(
            f"{of} is not JSON: {exc.msg} in line {exc.lineno}, column {exc.colno}.", code="invalid_json"
        ) from exc
