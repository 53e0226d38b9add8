"""The content of a file or an object, as pipelines hold it: a text, a JSON value, or base64 of its bytes."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any, Literal

from flowmason_ray.errors import PermanentError

ContentFormat = Literal["text", "json", "bytes"]


def encoded(content: Any, form: ContentFormat, *, encoding: str = "utf-8", indent: int | None = None) -> bytes:
    """Return the bytes that `content` stands for.

    Raises:
        PermanentError: it is not of that form (`invalid_input`), or the encoding cannot say it (`encoding_error`).
    """
    if form == "json":
        return json_bytes(content, "'content'", indent=indent)
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
    except (ValueError, LookupError) as exc:  # also what some codecs say, and a name that holds a NUL
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
    except (UnicodeError, LookupError) as exc:
        raise _not_text(of, used, exc) from exc
    except (ValueError, RecursionError) as exc:
        if form != "json":
            raise _not_text(of, used, exc) from exc
        raise PermanentError(f"{of} is not JSON that can be read: {json_flaw(exc)}.", code="invalid_json") from exc


def _not_text(of: str, encoding: str, exc: Exception) -> PermanentError:
    return PermanentError(
        f"{of} cannot be read as {encoding!r}: {exc}. Bytes are read with format 'bytes'.", code="encoding_error"
    )


def json_flaw(exc: ValueError | RecursionError) -> str:
    """Return what keeps a text from being read as JSON, for what `json.loads` raised."""
    match exc:
        case json.JSONDecodeError():
            return f"{exc.msg} in line {exc.lineno}, column {exc.colno}"
        case RecursionError():
            return "its lists and objects nest too deeply"
        case _:
            return f"it holds a number of more than {sys.get_int_max_str_digits()} digits"


def json_bytes(
    value: Any, what: str, *, indent: int | None = None, compact: bool = False, code: str = "invalid_input"
) -> bytes:
    """Return a value as JSON in UTF-8.

    Args:
        value: The value.
        what: What it is, as it reads at the start of a sentence.
        indent: As in `json.dumps`.
        compact: Whether to leave out all spaces.
        code: The error's code.

    Raises:
        PermanentError: JSON, or UTF-8, cannot say it.
    """
    separators = (",", ":") if compact else None
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode()
    except RecursionError:
        why = "its lists and objects nest too deeply"
    except UnicodeEncodeError:
        why = "a text in it is not valid Unicode (it holds half of a surrogate pair)"
    except ValueError:
        why = f"it holds a number of more than {sys.get_int_max_str_digits()} digits"
    except TypeError as exc:  # "Object of type DataFrame is not JSON serializable"
        why = f"{str(exc).removesuffix(' is not JSON serializable')} is in it; tables are written by table_write"
    raise PermanentError(f"{what} cannot be written as JSON: {why}.", code=code) from None
