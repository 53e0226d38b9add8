"""`email`: sends mail by SMTP.

Effectful: a mail that was taken cannot be called back, and no server looks whether it has seen one before. The message's id is
made from the attempt's idempotency key, so that a mail that is sent twice after all carries the same one. When the connection
breaks after the message went out and before the server answered, nobody knows, and the stage fails with `email_in_doubt`,
which is not retried by itself.
"""

from __future__ import annotations

import asyncio
import mimetypes
import re
from email.errors import MessageError, NonASCIILocalPartDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any, cast

from pydantic import BaseModel, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.tls import is_certificate, trust
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.components.extras import needs
from flowmason_ray.components.files import existing_file, file_errors
from flowmason_ray.connections import SmtpConnection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, StageError, TemporaryError

with needs("The component 'email'", extra="email"):
    import aiosmtplib
    import idna

MAX_MESSAGE_BYTES = 25 * 1024 * 1024
"""What most servers take."""
_PORTS = {"starttls": 587, "implicit": 465, "none": 25}


@operator(name="email", effect="effectful", cost="io", category="delivery", tags=("smtp", "delivery"))
class Email:
    """Sends a mail: text, HTML or both, with files of the project attached."""

    class Input(BaseModel):
        """To whom and what."""

        model_config = closed(
            {
                "connection": "mail",
                "to": ["Ada <ada@example.com>"],
                "subject": "Your order",
                "body": "It is on its way.",
                "html": "<p>It is <b>on its way</b>.</p>",
            }
        )

        connection: str = Field(
            description="The connection of type smtp in flowmason.json.", json_schema_extra=names_connection("smtp")
        )
        to: list[str] | str = Field(description="Addresses: 'ada@example.com' or 'Ada <ada@example.com>'.")
        cc: list[str] | str = Field(default=[], description="Further addresses that everybody sees.")
        bcc: list[str] | str = Field(default=[], description="Further addresses that nobody sees.")
        subject: str = Field(description="The subject.")
        body: str | None = Field(default=None, description="The text.")
        html: str | None = Field(default=None, description="The same as HTML, in place of the text or beside it.")
        from_address: str | None = Field(default=None, description="The sender; default: the connection's.")
        reply_to: str | None = Field(default=None, description="Where answers go.")
        attachments: list[str] = Field(default=[], description="Files of the project.")
        headers: dict[str, str] = Field(default={}, description="Further headers, such as 'X-Priority'.")
        timeout: float = Field(default=60.0, gt=0, le=600, description="Seconds for each answer of the server.")

    class Output(BaseModel):
        """What the server said."""

        message_id: str = Field(description="The message's id.")
        accepted: list[str] = Field(description="The addresses that the server took.")
        refused: dict[str, str] = Field(description="{address: why} for those that it did not.")
        size_bytes: int = Field(description="The message's size.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Send it.

        Raises:
            PermanentError: `email_address`, `email_refused`, `email_denied`, `email_in_doubt`, `email_error`, `invalid_input`, ….
            TemporaryError: `email_unavailable`.
        """
        connection = context.connection(input.connection, SmtpConnection)
        sender = input.from_address or cast("str | None", connection.sender)
        if sender is None:
            raise PermanentError(
                f"Give 'from_address', or 'sender' in the connection {input.connection!r}.", code="invalid_input"
            )
        message = _message(input, sender, context)
        data = message.as_bytes(policy=SMTP)
        if len(data) > MAX_MESSAGE_BYTES:
            raise PermanentError(
                f"The message has {len(data)} bytes; servers take about {MAX_MESSAGE_BYTES}. Put files where they can be fetched.",
                code="file_too_large",
            )
        recipients = [a.addr_spec for field in (input.to, input.cc, input.bcc) for a in _addresses(field)]
        unique = list(dict.fromkeys(recipients))
        refused = await _send(connection, input, _addresses(sender)[0].addr_spec, unique, data)
        for address, why in refused.items():
            context.log("warning", f"The server does not take mail for {address}: {why}")
        return self.Output(
            message_id=str(message["Message-ID"]),
            accepted=[each for each in unique if each not in refused],
            refused=refused,
            size_bytes=len(data),
        )


def _addresses(field: list[str] | str) -> list[Address]:
    """Return the addresses of a field.

    Raises:
        PermanentError: one of them is none (`email_address`).
    """
    found: list[Address] = []
    for text in [field] if isinstance(field, str) else field:
        parsed = [_in_ascii(each, text) for each in _parsed(text)]
        if not parsed:
            raise PermanentError(
                f"{text!r} is no mail address; write 'ada@example.com' or 'Ada <ada@example.com>'.",
                code="email_address",
            )
        found += parsed
    return found


def _in_ascii(address: Address, text: str) -> Address:
    """Return an address with its domain as the mail system knows it (IDNA 2008): `müller.de` is `xn--mller-kva.de`."""
    if not address.username.isascii():
        raise PermanentError(
            f"{text!r}: before the '@' stand letters that only servers with SMTPUTF8 know, which is not used here.",
            code="email_address",
        )
    if address.domain.isascii():
        return address
    try:
        domain = idna.encode(address.domain, uts46=True).decode("ascii")
    except idna.IDNAError as exc:
        raise PermanentError(f"{text!r}: there can be no such domain ({exc}).", code="email_address") from exc
    return Address(address.display_name, address.username, domain)


def _parsed(text: str) -> list[Address]:
    """Return the addresses in a text, by the standard library's parser of headers (RFC 5322); none if one is wrong."""
    if any(ord(c) < 32 for c in text):
        return []
    try:
        header = SMTP.header_factory("To", text)
    except (MessageError, ValueError, IndexError):
        return []
    addresses = cast("list[Address]", list(header.addresses))
    defects = [each for each in header.defects if not isinstance(each, NonASCIILocalPartDefect)]
    return addresses if not defects and all(a.username and a.domain for a in addresses) else []


def _message(input: Email.Input, sender: str, context: Context) -> EmailMessage:
    to = _addresses(input.to)
    if not to:
        raise PermanentError("'to' names nobody.", code="email_address")
    if input.body is None and input.html is None:
        raise PermanentError("Give 'body', 'html', or both.", code="invalid_input")
    message = EmailMessage(policy=SMTP)
    try:
        message["From"], message["To"] = _addresses(sender)[0], to
        if cc := _addresses(input.cc):
            message["Cc"] = cc
        if input.reply_to is not None:
            message["Reply-To"] = _addresses(input.reply_to)
        message["Subject"] = input.subject
        message["Date"] = format_datetime(context.now())
        message["Message-ID"] = f"<{context.idempotency_key}@flowmason>"
        for name, value in input.headers.items():
            if name.lower() in _OURS:
                raise PermanentError(f"The header {name!r} has a field of its own.", code="invalid_input")
            if _HEADER.fullmatch(name) is None:
                raise ValueError(f"{name!r} is no name of a header")
            message[name] = value
    except (ValueError, TypeError, IndexError) as exc:  # a line break in a header would begin another one
        raise PermanentError(f"A header cannot be sent: {exc}.", code="invalid_input") from exc
    if input.body is not None:
        message.set_content(input.body)
        if input.html is not None:
            message.add_alternative(input.html, subtype="html")
    else:
        message.set_content(cast("str", input.html), subtype="html")
    for path in input.attachments:
        file = existing_file(context.project_dir, path)
        kind, _, detail = _media_type(file.name).partition("/")
        with file_errors(path):
            size = file.stat().st_size
            if size > MAX_MESSAGE_BYTES:
                raise PermanentError(f"File {path!r} has {size} bytes, more than a mail holds.", code="file_too_large")
            message.add_attachment(file.read_bytes(), maintype=kind, subtype=detail, filename=file.name)
    return message


def _media_type(name: str) -> str:
    """Return what a file is by its name; one that is compressed is that, and not what is in it."""
    found, compression = mimetypes.guess_type(name)
    usual = "application/octet-stream"
    return found or usual if compression is None else _COMPRESSED.get(compression, usual)


_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_OURS = frozenset(
    {"from", "to", "cc", "bcc", "subject", "date", "message-id", "reply-to", "content-type", "mime-version", "sender"}
)


async def _send(
    connection: SmtpConnection, input: Email.Input, sender: str, recipients: list[str], data: bytes
) -> dict[str, str]:
    """Hand the message over; return who was refused and why."""
    where = f"Mail server {input.connection!r}"
    client = aiosmtplib.SMTP(
        hostname=str(connection.host),
        port=connection.port or _PORTS[connection.tls],
        use_tls=connection.tls == "implicit",
        start_tls=connection.tls == "starttls",
        tls_context=None if connection.tls == "none" else trust(connection.verify),
        timeout=input.timeout,
    )
    handing_over = False
    try:
        await client.connect()
        if connection.username is not None:
            await client.login(str(connection.username), str(connection.password or ""))
        refused: dict[str, str] = {}
        await client.mail(sender)
        for address in recipients:
            try:
                await client.rcpt(address)
            except aiosmtplib.SMTPResponseException as exc:
                refused[address] = f"{exc.code} {exc.message}"
        if len(refused) == len(recipients):
            raise _nobody(refused, where)
        handing_over = True
        await client.data(data)
        handing_over = False
        return refused
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as exc:
        raise _said(exc, where, handing_over=handing_over) from exc
    finally:
        await _goodbye(client)


async def _goodbye(client: aiosmtplib.SMTP) -> None:
    """Take leave; nothing depends on it any more."""
    transport: Any = client.transport
    try:
        async with asyncio.timeout(2):
            await client.quit()
    except (aiosmtplib.SMTPException, OSError, TimeoutError):
        pass
    finally:
        client.close()
        if transport is not None:
            # Closing politely, TLS waits for the server to say goodbye as well, and the socket stays open until then.
            transport.abort()
            await asyncio.sleep(0)


def _nobody(refused: dict[str, str], where: str) -> StageError:
    message = f"{where} takes the message for nobody: " + "; ".join(f"{a}: {why}" for a, why in refused.items()) + "."
    if all(why.startswith("4") for why in refused.values()):
        return TemporaryError(message, code="email_unavailable")
    return PermanentError(message, code="email_refused", details={"refused": refused})


def _said(exc: Exception, where: str, *, handing_over: bool) -> StageError:
    if isinstance(exc, aiosmtplib.SMTPAuthenticationError):
        return PermanentError(
            f"{where} refuses the login ({exc.code} {exc.message}). Check the connection's username and password.",
            code="email_denied",
        )
    if isinstance(exc, aiosmtplib.SMTPResponseException) and exc.code >= 400:
        if exc.code < 500:
            return TemporaryError(f"{where} cannot take it now: {exc.code} {exc.message}.", code="email_unavailable")
        return PermanentError(f"{where} refuses: {exc.code} {exc.message}.", code="email_refused")
    if handing_over:
        return PermanentError(
            f"{where} broke off after the message had gone out and before it answered: nobody knows whether it was taken. "
            "Look there, and run the stage again if it was not.",
            code="email_in_doubt",
        )
    if is_certificate(exc):
        return PermanentError(
            f"{where} shows a certificate that is not valid: {exc}. 'verify': false in the connection accepts any.",
            code="email_error",
        )
    if isinstance(exc, (aiosmtplib.SMTPNotSupported, aiosmtplib.SMTPHeloError)) or "STARTTLS" in str(exc):
        return PermanentError(
            f"{where}: {exc} Is 'tls' of the connection right? There are starttls, implicit and none.",
            code="email_error",
        )
    return TemporaryError(f"{where} cannot be used now: {exc or type(exc).__name__}.", code="email_unavailable")
