"""`s3`: objects in S3, or in a store that speaks its protocol.

Declared idempotent: doing an operation again leaves the same objects. Large objects go to and from files of the project in
parts, so that neither side holds them in memory; a file appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.contents import ContentFormat, decoded, encoded
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.extras import needs
from flowmason_ray.components.files import existing_file, file_errors, relative, resolve_inside, write_atomic
from flowmason_ray.connections import S3Connection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, TemporaryError

with needs("The component 's3'", extra="s3"):
    import boto3  # pyright: ignore[reportMissingTypeStubs]  # it has no types
    from boto3.exceptions import S3UploadFailedError  # pyright: ignore[reportMissingTypeStubs]
    from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
    from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
    )

MAX_CONTENT_BYTES = 16 * 1024 * 1024
"""A larger object is no message between stages; give `file`."""
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_DENIED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
_LATER = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500", "502", "503"})


@operator(name="s3", effect="idempotent", cost="io", category="data", tags=("s3", "files"))
class S3:
    """Reads, writes, lists, copies and deletes objects in S3."""

    class Input(BaseModel):
        """What to do with which object."""

        model_config = closed(
            {
                "connection": "lake",
                "operation": "put",
                "key": "reports/today.json",
                "content": {"orders": 3},
                "format": "json",
            }
        )

        connection: str = Field(
            description="The connection of type s3 in flowmason.json.", json_schema_extra=names_connection("s3")
        )
        operation: Literal["get", "put", "list", "delete", "copy", "exists"] = Field(description="What to do.")
        bucket: str | None = Field(default=None, description="The bucket; default: the connection's.")
        key: str = Field(default="", description="The object's key; for list the prefix.")
        content: Any = Field(
            default=None,
            description="For put: a text, base64 for format 'bytes', or any JSON value for format 'json'.",
        )
        file: str | None = Field(
            default=None, description="For get and put: a file of the project in place of 'content'; for large objects."
        )
        format: ContentFormat = Field(
            default="text", description="How the content is read and written; 'bytes' is base64 in the pipeline."
        )
        content_type: str | None = Field(default=None, description="For put: the media type; default: by the format.")
        destination: str | None = Field(default=None, description="For copy: the new key.")
        destination_bucket: str | None = Field(default=None, description="For copy: another bucket.")
        limit: int = Field(default=1000, ge=1, le=100_000, description="For list: the most objects.")
        timeout: float = Field(default=60.0, gt=0, le=3600, description="Seconds for each answer of the server.")

    class Output(BaseModel):
        """What was found or done; fields that do not belong to the operation are null."""

        bucket: str = Field(description="The bucket.")
        key: str = Field(description="The key; for copy the new one.")
        exists: bool = Field(description="Whether the object is there now; for list whether there is any.")
        content: Any = Field(default=None, description="get without 'file': the content, as 'format' asks for it.")
        file: str | None = Field(default=None, description="get and put with 'file': the file.")
        size_bytes: int | None = Field(default=None, description="The object's size.")
        etag: str | None = Field(default=None, description="The object's ETag.")
        objects: list[dict[str, Any]] | None = Field(
            default=None, description="list: `key`, `size_bytes`, `modified` and `etag` of each, by key."
        )
        truncated: bool = Field(default=False, description="list: whether there are more than 'limit'.")

    def execute(self, input: Input, context: Context) -> Output:
        """Do it.

        Raises:
            PermanentError: `s3_not_found`, `s3_denied`, `s3_error`, `invalid_input`, `file_too_large`, `file_error`, ….
            TemporaryError: `s3_unavailable`.
        """
        connection = context.connection(input.connection, S3Connection)
        bucket = input.bucket or cast("str | None", connection.bucket)
        if not bucket:
            raise PermanentError(f"Give 'bucket', or one in the connection {input.connection!r}.", code="invalid_input")
        if not input.key and input.operation != "list":
            raise PermanentError(f"Operation {input.operation!r} needs 'key'.", code="invalid_input")
        where = f"s3://{bucket}/{input.key}"
        try:
            client = _client(connection, input.timeout)
            return getattr(self, f"_{input.operation}")(client, bucket, input, context)
        except ClientError as exc:
            raise _said(exc, where) from exc
        except S3UploadFailedError as exc:  # around what really went wrong; its own words tell the file's absolute path
            if isinstance(exc.__context__, ClientError):
                raise _said(exc.__context__, where) from exc
            raise TemporaryError(f"{where} cannot be written now.", code="s3_unavailable") from exc
        except (NoCredentialsError, ParamValidationError, ValueError) as exc:
            raise PermanentError(f"{where}: {exc}.", code="s3_error") from exc
        except BotoCoreError as exc:
            raise TemporaryError(f"{where} cannot be reached now: {exc}.", code="s3_unavailable") from exc

    def _get(self, client: Any, bucket: str, input: Input, context: Context) -> Output:
        answer = client.get_object(Bucket=bucket, Key=input.key)
        size, etag = int(answer["ContentLength"]), _etag(answer)
        if input.file is not None:
            target = resolve_inside(context.project_dir, input.file)

            def stream(temporary: Path) -> None:
                with temporary.open("wb") as out:
                    done = 0
                    for chunk in answer["Body"].iter_chunks(1024 * 1024):
                        out.write(chunk)
                        done += len(chunk)
                        context.progress(done, size)

            with file_errors(input.file):
                write_atomic(target, stream)
            name = relative(context.project_dir, target)
            return self.Output(bucket=bucket, key=input.key, exists=True, file=name, size_bytes=size, etag=etag)
        if size > MAX_CONTENT_BYTES:
            raise PermanentError(
                f"s3://{bucket}/{input.key} has {size} bytes; up to {MAX_CONTENT_BYTES} are handed on. Give 'file'.",
                code="file_too_large",
            )
        content = decoded(answer["Body"].read(), input.format, of=f"s3://{bucket}/{input.key}")
        return self.Output(bucket=bucket, key=input.key, exists=True, content=content, size_bytes=size, etag=etag)

    def _put(self, client: Any, bucket: str, input: Input, context: Context) -> Output:
        if (input.file is None) == (input.content is None):
            raise PermanentError("Operation 'put' needs either 'content' or 'file'.", code="invalid_input")
        name = None
        if input.file is not None:
            source = existing_file(context.project_dir, input.file)
            name = relative(context.project_dir, source)
            media_type = input.content_type or "application/octet-stream"
            # In parts, several at a time, and each again when it fails: boto's transfer manager.
            with file_errors(input.file):
                client.upload_file(str(source), bucket, input.key, ExtraArgs={"ContentType": media_type})
        else:
            data = encoded(input.content, input.format)
            media_type = input.content_type or _MEDIA_TYPES[input.format]
            client.put_object(Bucket=bucket, Key=input.key, Body=data, ContentType=media_type)
        return self._about(client, bucket, input.key, file=name)

    def _list(self, client: Any, bucket: str, input: Input, context: Context) -> Output:
        objects: list[dict[str, Any]] = []
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=input.key):
            for each in page.get("Contents", []):
                if len(objects) == input.limit:
                    return self.Output(bucket=bucket, key=input.key, exists=True, objects=objects, truncated=True)
                facts = {"key": each["Key"], "size_bytes": each["Size"], "modified": each["LastModified"].isoformat()}
                objects.append({**facts, "etag": _etag(each)})
        return self.Output(bucket=bucket, key=input.key, exists=bool(objects), objects=objects)

    def _delete(self, client: Any, bucket: str, input: Input, context: Context) -> Output:
        client.delete_object(Bucket=bucket, Key=input.key)
        return self.Output(bucket=bucket, key=input.key, exists=False)

    def _copy(self, client: Any, bucket: str, input: Input, context: Context) -> Output:
        if not input.destination:
            raise PermanentError("Operation 'copy' needs 'destination'.", code="invalid_input")
        target = input.destination_bucket or bucket
        client.copy({"Bucket": bucket, "Key": input.key}, target, input.destination)
        return self._about(client, target, input.destination)

    def _exists(self, client: Any, bucket: str, input: Input, context: Context) -> Output:
        try:
            return self._about(client, bucket, input.key)
        except ClientError as exc:
            if _code(exc) not in _MISSING:
                raise
            return self.Output(bucket=bucket, key=input.key, exists=False)

    def _about(self, client: Any, bucket: str, key: str, file: str | None = None) -> Output:
        head = client.head_object(Bucket=bucket, Key=key)
        size = int(head["ContentLength"])
        return self.Output(bucket=bucket, key=key, exists=True, size_bytes=size, etag=_etag(head), file=file)


def _client(connection: S3Connection, timeout: float) -> Any:
    config = Config(
        connect_timeout=min(timeout, 10.0),
        read_timeout=timeout,
        # Repeating is the affair of the stage's retry policy, which the run log tells of; once more helps a stale connection.
        retries={"total_max_attempts": 2, "mode": "standard"},
        s3={"addressing_style": "path" if connection.path_style else "auto"},
    )
    session = cast("Any", boto3.Session)(
        aws_access_key_id=connection.access_key_id,
        aws_secret_access_key=connection.secret_access_key,
        aws_session_token=connection.session_token,
        region_name=connection.region,
    )
    return session.client("s3", endpoint_url=connection.endpoint_url, config=config)


def _code(exc: Any) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def _etag(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _said(exc: Any, where: str) -> PermanentError | TemporaryError:
    code, words = _code(exc), str(exc.response.get("Error", {}).get("Message", "")).rstrip(".")
    if code in _MISSING:
        return PermanentError(f"There is no object {where!r}.", code="s3_not_found")
    if code == "NoSuchBucket":
        return PermanentError(
            f"There is no bucket for {where!r}. Make it first, or correct its name.", code="s3_not_found"
        )
    if code in _DENIED:
        return PermanentError(
            f"S3 refuses {where!r} ({code}: {words}). Check the connection's keys and the bucket's policy.",
            code="s3_denied",
        )
    if code in _LATER:
        return TemporaryError(f"S3 cannot do it now for {where!r} ({code}: {words}).", code="s3_unavailable")
    return PermanentError(f"S3 says about {where!r}: {code}: {words}.", code="s3_error")


_MEDIA_TYPES = {"json": "application/json", "text": "text/plain; charset=utf-8", "bytes": "application/octet-stream"}
