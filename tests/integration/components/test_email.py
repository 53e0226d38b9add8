"""`email` to a real mail server on the loopback, with and without TLS and login."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components.builtin.email_send import Email
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.servers_kit import PASSWORD, Mailbox, free_port, mail_server, make_certificate

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make a certificate"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("mail"), "IP:127.0.0.1")


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    yield from mail_server()


@pytest.fixture
def make_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RecordingContext]:
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG_PASSWORD", "wrong-password")

    def make(port: int, **more: Any) -> RecordingContext:
        mail = {"type": "smtp", "host": "127.0.0.1", "port": port, "tls": "none", "sender": "Shop <shop@example.com>"}
        settings = ProjectSettings.model_validate({"connections": {"mail": {**mail, **more}}})
        return RecordingContext(settings=settings, project_dir=tmp_path, idempotency_key="key-of-the-attempt")

    return make


def send(context: RecordingContext, **config: Any) -> Email.Output:
    usual = {"connection": "mail", "to": "Ada <ada@example.com>", "subject": "Grüße", "body": "Häppy\nnew year"}
    given = {k: v for k, v in {**usual, **config}.items() if v is not None}
    return asyncio.run(Email().execute(Email.Input.model_validate(given), context))


def test_a_mail_arrives_as_it_was_written(
    mailbox: Mailbox, make_context: Callable[..., RecordingContext], tmp_path: Path
) -> None:
    (tmp_path / "report.csv").write_text("a,b\n1,2\n")
    (tmp_path / "raw").write_bytes(b"\x00\xff")
    done = send(
        make_context(mailbox.port),
        to=["Ada Löve <ada@example.com>", "bob@example.com"],
        cc="cyd@example.com",
        bcc=["dee@example.com", "bob@example.com"],
        html="<p>Häppy</p>",
        reply_to="help@example.com",
        attachments=["report.csv", "raw"],
        headers={"X-Kind": "order"},
    )
    (message,) = mailbox.messages
    everybody = ["ada@example.com", "bob@example.com", "cyd@example.com", "dee@example.com"]
    assert mailbox.envelopes == [("shop@example.com", everybody)]
    assert (done.accepted, done.refused) == (everybody, {})
    assert message["Message-ID"] == done.message_id == "<key-of-the-attempt@flowmason>"
    assert message["Subject"] == "Grüße"
    assert message["To"] == "Ada Löve <ada@example.com>, bob@example.com"
    assert (message["From"], message["Cc"], message["Bcc"]) == ("Shop <shop@example.com>", "cyd@example.com", None)
    assert (message["Reply-To"], message["X-Kind"]) == ("help@example.com", "order")
    assert message["Date"].datetime.year == 2024
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().splitlines() == ["Häppy", "new year"]
    assert html.get_content().strip() == "<p>Häppy</p>"
    attached = {part.get_filename(): part for part in message.iter_attachments()}
    assert attached["report.csv"].get_content_type() == "text/csv"
    assert attached["raw"].get_content() == b"\x00\xff"


def test_what_is_compressed_is_no_text(
    mailbox: Mailbox, make_context: Callable[..., RecordingContext], tmp_path: Path
) -> None:
    expected = {
        "data.csv.gz": "application/gzip",
        "data.tar.gz": "application/gzip",
        "notes.txt.bz2": "application/x-bzip2",
        "notes.txt.xz": "application/x-xz",
        "old.txt.Z": "application/octet-stream",
        "odd.svgz": "application/gzip",
    }
    for name in expected:
        (tmp_path / name).write_bytes(b"\x1f\x8b\x00\xff")
    send(make_context(mailbox.port), attachments=list(expected))
    (message,) = mailbox.messages
    assert {part.get_filename(): part.get_content_type() for part in message.iter_attachments()} == expected
    assert {part.get_content() for part in message.iter_attachments()} == {b"\x1f\x8b\x00\xff"}


def test_domains_may_have_letters_of_any_script(
    mailbox: Mailbox, make_context: Callable[..., RecordingContext]
) -> None:
    done = send(
        make_context(mailbox.port, sender="Shop <shop@bücher.example>"),
        to=["Äda <ada@MÜLLER.example>", "bob@straße.example"],
        reply_to="help@bücher.example",
    )
    everybody = ["ada@xn--mller-kva.example", "bob@xn--strae-oqa.example"]
    assert mailbox.envelopes == [("shop@xn--bcher-kva.example", everybody)]
    assert done.accepted == everybody
    assert mailbox.messages[0]["To"] == "Äda <ada@xn--mller-kva.example>, bob@xn--strae-oqa.example"
    assert mailbox.messages[0]["Reply-To"] == "help@xn--bcher-kva.example"


def test_html_alone_and_another_sender(mailbox: Mailbox, make_context: Callable[..., RecordingContext]) -> None:
    send(make_context(mailbox.port), body=None, html="<b>x</b>", from_address="other@example.com")
    (message,) = mailbox.messages
    assert (message.get_content_type(), message["From"]) == ("text/html", "other@example.com")


@needs_openssl
@pytest.mark.filterwarnings(
    "ignore:Requiring AUTH:UserWarning"
)  # over implicit TLS the server does not know that it is safe
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_tls_with_a_login_and_a_certificate_that_must_be_valid(
    tls: Any,
    certificate: tuple[Path, Path],
    make_context: Callable[..., RecordingContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = {"username": "me", "password": {"secret": "SMTP_PASSWORD"}}
    for mailbox in mail_server(tls=tls, certificate=certificate, login=True):
        with pytest.raises(PermanentError, match="certificate that is not valid") as caught:
            send(make_context(mailbox.port, tls=tls, **user))
        assert caught.value.code == "email_error"
        send(make_context(mailbox.port, tls=tls, verify=False, **user))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
        send(make_context(mailbox.port, tls=tls, **user))
        assert len(mailbox.messages) == 2
        assert mailbox.secure == [True, True]
        with pytest.raises(PermanentError, match="refuses the login") as caught:
            send(make_context(mailbox.port, tls=tls, username="me", password={"secret": "WRONG_PASSWORD"}))
        assert caught.value.code == "email_denied"
        assert "wrong-password" not in caught.value.message
        with pytest.raises(PermanentError) as caught:
            send(make_context(mailbox.port, tls=tls))
        assert caught.value.code == "email_refused", "it wants a login"
        assert len(mailbox.messages) == 2


def test_some_recipients_may_be_refused_but_not_all(
    mailbox: Mailbox, make_context: Callable[..., RecordingContext]
) -> None:
    context = make_context(mailbox.port)
    mailbox.refuse = {"no@example.com": "550 unknown"}
    done = send(context, to=["ada@example.com", "no@example.com"])
    assert (done.accepted, done.refused) == (["ada@example.com"], {"no@example.com": "550 unknown"})
    assert "no@example.com" in context.messages("warning")[0]
    with pytest.raises(PermanentError, match=r"for nobody: no@example\.com: 550 unknown") as caught:
        send(context, to="no@example.com")
    assert caught.value.code == "email_refused"
    mailbox.refuse = {"no@example.com": "451 later"}
    with pytest.raises(TemporaryError):
        send(context, to="no@example.com")
    assert len(mailbox.messages) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [("554 spam", PermanentError, "email_refused"), ("452 full", TemporaryError, "email_unavailable")],
)
def test_a_message_may_be_refused(
    answer: str, kind: type[StageError], code: str, mailbox: Mailbox, make_context: Callable[..., RecordingContext]
) -> None:
    mailbox.refuse_data = answer
    with pytest.raises(kind, match=answer) as caught:
        send(make_context(mailbox.port))
    assert caught.value.code == code


def test_a_connection_that_breaks_after_the_message_went_out_is_in_doubt(
    make_context: Callable[..., RecordingContext],
) -> None:
    """A server that takes everything, and hangs up instead of answering to the message."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rwb") as file:
            file.write(b"220 hello\r\n")
            file.flush()
            for line in file:
                if line.strip() == b".":
                    return
                if line[:4].upper() in (b"EHLO", b"MAIL", b"RCPT"):
                    file.write(b"250 OK\r\n")
                elif line[:4].upper() == b"DATA":
                    file.write(b"354 go on\r\n")
                file.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with pytest.raises(PermanentError, match="nobody knows whether it was taken") as caught:
            send(make_context(listening.getsockname()[1]))
        assert caught.value.code == "email_in_doubt"
    finally:
        thread.join(30)
        listening.close()


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ({"to": "nobody"}, "email_address", "'nobody' is no mail address"),
        ({"to": []}, "email_address", "names nobody"),
        ({"to": "jürgen@example.com"}, "email_address", "'jürgen@example.com'.*SMTPUTF8"),
        ({"to": f"ada@{'ü' * 70}.de"}, "email_address", "no such domain"),
        ({"to": "a@example.com\r\nBcc: evil@example.com"}, "email_address", "no mail address"),
        ({"subject": "x\r\nBcc: evil@example.com"}, "invalid_input", "header cannot be sent"),
        ({"headers": {"X-A": "b\r\nBcc: evil@example.com"}}, "invalid_input", "header cannot be sent"),
        ({"headers": {"X-A: b\r\nBcc": "evil@example.com"}}, "invalid_input", "header cannot be sent"),
        ({"headers": {"Bcc": "evil@example.com"}}, "invalid_input", "field of its own"),
        ({"body": None}, "invalid_input", "'body', 'html', or both"),
        ({"attachments": ["../up"]}, "path_outside_project", "outside"),
        ({"attachments": ["none"]}, "file_not_found", "no file"),
        ({"connection": "mial"}, "unknown_connection", "Did you mean 'mail'"),
    ],
)
def test_what_cannot_be_sent_is_said_and_nothing_is(
    config: dict[str, Any], code: str, words: str, mailbox: Mailbox, make_context: Callable[..., RecordingContext]
) -> None:
    with pytest.raises(PermanentError, match=words) as caught:
        send(make_context(mailbox.port), **config)
    assert caught.value.code == code
    assert mailbox.messages == []


def test_no_server_and_no_tls_are_told_apart(mailbox: Mailbox, make_context: Callable[..., RecordingContext]) -> None:
    with pytest.raises(TemporaryError) as caught:
        send(make_context(free_port()))
    assert caught.value.code == "email_unavailable"
    with pytest.raises(PermanentError, match="Is 'tls' of the connection right") as refused:
        send(make_context(mailbox.port, tls="starttls"))
    assert refused.value.code == "email_error"
    with pytest.raises(PermanentError, match="'from_address'") as nobody:
        send(make_context(mailbox.port, sender=None))
    assert nobody.value.code == "invalid_input"
