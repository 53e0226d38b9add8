"""`webhook`, `output_router`, `error_router`: to real receivers on the loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from flowmason_ray.components.builtin import destinations
from flowmason_ray.components.builtin.error_router import ErrorRouter
from flowmason_ray.components.builtin.output_router import OutputRouter
from flowmason_ray.components.builtin.webhook import Webhook, is_signed
from flowmason_ray.errors import ExpressionError, PermanentError, StageError, TemporaryError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.servers_kit import PASSWORD, Receiver, free_port

KEY = "signing-key"


@pytest.fixture
def make_context(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RecordingContext]:
    monkeypatch.setenv("HOOK_KEY", KEY)
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    monkeypatch.setattr(destinations, "FIRST_DELAY_S", 0.001)

    def make(redis_url: str = "redis://127.0.0.1:1/0", allow: tuple[str, ...] = ()) -> RecordingContext:
        connections = {
            "hook": {"type": "webhook", "url": receiver.url, "secret": {"secret": "HOOK_KEY"}, "headers": {"X-A": "b"}},
            "plain": {"type": "webhook", "url": receiver.url},
            "gone": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/"},
            "cache": {"type": "redis", "url": redis_url, "password": {"secret": "REDIS_PASSWORD"}},
        }
        settings = ProjectSettings.model_validate({"connections": connections, "http": {"allow_hosts": list(allow)}})
        return RecordingContext(settings=settings, project_dir=tmp_path, idempotency_key=uuid4().hex)

    return make


@pytest.fixture
def context(make_context: Callable[..., RecordingContext]) -> RecordingContext:
    return make_context()


def send(context: RecordingContext, **config: Any) -> Webhook.Output:
    where = {} if "url" in config or "connection" in config else {"connection": "hook"}
    given = Webhook.Input.model_validate({"payload": {"id": 7}, **where, **config})
    return asyncio.run(Webhook().execute(given, context))


def route(context: RecordingContext, routes: list[Any], payload: Any = None, **config: Any) -> OutputRouter.Output:
    given = OutputRouter.Input.model_validate(
        {"payload": payload or {"id": 7, "total": 20}, "routes": routes, **config}
    )
    return asyncio.run(OutputRouter().execute(given, context))


def tell(context: RecordingContext, error: Any, routes: list[Any], **config: Any) -> ErrorRouter.Output:
    given = ErrorRouter.Input.model_validate({"error": error, "routes": routes, **config})
    return asyncio.run(ErrorRouter().execute(given, context))


def test_a_receiver_can_verify_the_signature_by_itself(context: RecordingContext, receiver: Receiver) -> None:
    done = send(context, payload={"id": 7, "name": "ü"}, event_type="order.paid")
    (seen,) = receiver.seen
    assert (done.delivered, done.signed, done.response) == (True, True, {"ok": True})
    assert json.loads(seen.body) == {"id": 7, "name": "ü"}
    assert seen.headers["webhook-id"] == seen.headers["idempotency-key"] == context.idempotency_key == done.webhook_id
    assert (seen.headers["webhook-event"], seen.headers["x-a"]) == ("order.paid", "b")
    # As the specification says, without our own code.
    signed = f"{seen.headers['webhook-id']}.{seen.headers['webhook-timestamp']}.".encode() + seen.body
    expected = base64.b64encode(hmac.new(KEY.encode(), signed, hashlib.sha256).digest()).decode()
    assert seen.headers["webhook-signature"] == f"v1,{expected}"
    assert is_signed(KEY, seen.headers, seen.body, now=time.time())


def test_what_was_altered_or_is_old_is_not_signed(context: RecordingContext, receiver: Receiver) -> None:
    send(context)
    (seen,) = receiver.seen
    now = float(seen.headers["webhook-timestamp"])
    assert is_signed(KEY, seen.headers, seen.body, now=now)
    assert not is_signed("another key", seen.headers, seen.body, now=now)
    assert not is_signed(KEY, seen.headers, seen.body + b" ", now=now)
    assert not is_signed(KEY, {**seen.headers, "webhook-id": "other"}, seen.body, now=now)
    assert not is_signed(KEY, {**seen.headers, "webhook-timestamp": str(int(now) + 1)}, seen.body, now=now)
    assert not is_signed(KEY, seen.headers, seen.body, now=now + 301)
    assert not is_signed(KEY, {}, seen.body, now=now)


def test_keys_of_the_specification_are_base64(context: RecordingContext, receiver: Receiver) -> None:
    """The example of the specification's own libraries."""
    from flowmason_ray.components.builtin.webhook import signature

    made = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    with pytest.raises(PermanentError, match="not base64") as caught:
        send(context, secret="whsec_???")
    assert caught.value.code == "invalid_secret"
    assert "???" not in caught.value.message
    for empty in ("", " ", "whsec_"):
        with pytest.raises(PermanentError, match="everybody could sign") as caught:
            send(context, secret=empty)
        assert caught.value.code == "invalid_secret"
    assert send(context, connection="plain").signed is False
    assert "webhook-signature" not in receiver.seen[-1].headers


def test_a_repeated_attempt_carries_the_same_id(context: RecordingContext, receiver: Receiver) -> None:
    send(context)
    send(replace(context, attempt=2))
    send(replace(context, idempotency_key="another"))
    ids = [seen.headers["webhook-id"] for seen in receiver.seen]
    assert (ids[0] == ids[1], ids[0] == ids[2]) == (True, False)


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (404, {}, PermanentError),
        (302, {"location": "http://127.0.0.1:1/"}, PermanentError),
        (429, {"retry-after": "7"}, TemporaryError),
        (503, {}, TemporaryError),
    ],
)
def test_anything_but_2xx_fails(
    status: int, headers: dict[str, str], kind: type[StageError], context: RecordingContext, receiver: Receiver
) -> None:
    receiver.answers.append((status, headers, b"no"))
    with pytest.raises(kind, match=f"answered {status}, expected 2xx") as caught:
        send(context)
    assert caught.value.code == "http_status"
    assert len(receiver.seen) == 1, "no redirect is followed"
    if isinstance(caught.value, TemporaryError) and headers:
        assert caught.value.delay is not None
        assert caught.value.delay.total_seconds() == 7


@pytest.mark.parametrize(
    ("config", "kind", "code"),
    [
        ({"connection": None}, PermanentError, "invalid_input"),
        ({"connection": "hook", "url": "http://example.com"}, PermanentError, "invalid_input"),
        ({"connection": "cache"}, PermanentError, "connection_type"),
        ({"connection": "gone"}, TemporaryError, "http_connect"),
        ({"url": "ftp://example.com/x"}, PermanentError, "http_invalid_request"),
        ({"connection": "hook", "headers": {"x": "a\nb"}}, PermanentError, "http_invalid_request"),
    ],
)
def test_what_cannot_be_sent_is_said(
    config: dict[str, Any], kind: type[StageError], code: str, context: RecordingContext
) -> None:
    with pytest.raises(kind) as caught:
        send(context, **config)
    assert caught.value.code == code


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]", "169.254.169.254"])
def test_an_address_inside_is_refused_unless_the_project_allows_it(
    host: str, make_context: Callable[..., RecordingContext], receiver: Receiver
) -> None:
    with pytest.raises(PermanentError) as caught:
        send(make_context(), url=f"http://{host}:{receiver.port}/")
    assert caught.value.code == "http_blocked"
    assert receiver.seen == []
    # The positive control.
    allowed = make_context(allow=(f"127.0.0.1:{receiver.port}",))
    assert send(allowed, url=f"http://127.0.0.1:{receiver.port}/").delivered


# --- output_router -------------------------------------------------------------------------------------------------


def test_every_destination_whose_condition_holds_gets_it(
    make_context: Callable[..., RecordingContext], receiver: Receiver, redis_url: str, tmp_path: Path
) -> None:
    context = make_context(redis_url)
    routes: list[Any] = [
        {"name": "large", "when": "payload.total > 10", "destination": {"type": "webhook", "connection": "hook"}},
        {"name": "small", "when": "payload.total <= 10", "destination": {"type": "webhook", "connection": "plain"}},
        {"when": True, "destination": {"type": "queue", "connection": "cache", "queue": f"q{uuid4().hex}"}},
        {"destination": {"type": "file", "path": "out/last.json"}},
        {"destination": {"type": "file", "path": "out/all.ndjson", "mode": "append"}},
        {
            "destination": {
                "type": "database", "database": "o.db",
                "statement": "create table if not exists t as select :id as id, :tags as tags",
            }
        },
    ]  # fmt: skip
    payload = {"id": 7, "total": 20, "tags": ["a"]}
    done = route(context, routes, payload)
    assert (done.delivered, done.failed) == (5, 0)
    assert done.routed_to == ["large", "queue 3", "file 4", "file 5", "database 6"]
    assert [r.status for r in done.results] == ["delivered", "skipped", *["delivered"] * 4]
    assert json.loads(receiver.seen[0].body) == payload
    assert json.loads((tmp_path / "out/last.json").read_text()) == payload
    assert json.loads((tmp_path / "out/all.ndjson").read_text()) == payload
    with sqlite3.connect(tmp_path / "o.db") as database:
        assert database.execute("select id, tags from t").fetchall() == [(7, '["a"]')]
    database.close()
    queue = routes[2]["destination"]["queue"]
    client: Any = redis.Redis.from_url(redis_url, password=PASSWORD, decode_responses=True)  # pyright: ignore[reportUnknownMemberType]  # its options have no types
    # A repeated attempt: what can tell it is a repetition does.
    again = route(replace(context, attempt=2), routes, payload)
    assert again.results[2].output is not None
    assert again.results[2].output["repeated"] is True
    assert client.xlen(queue) == 1
    client.close()
    assert len((tmp_path / "out/all.ndjson").read_text().splitlines()) == 1
    assert receiver.seen[0].headers["webhook-id"] == receiver.seen[1].headers["webhook-id"]


def test_the_first_that_holds_and_the_default(context: RecordingContext, receiver: Receiver) -> None:
    hooks = [
        {"name": n, "when": f"payload.total > {least}", "destination": {"type": "webhook", "connection": "hook"}}
        for n, least in (("huge", 100), ("large", 10), ("any", 0))
    ]
    done = route(context, hooks, {"total": 50}, mode="first")
    assert done.routed_to == ["large"]
    assert [r.reason for r in done.results] == ["its condition does not hold", None, "another route came first"]
    nothing = route(context, hooks, {"total": -1})
    assert (nothing.delivered, len(nothing.results)) == (0, 3)
    fallback = route(context, hooks, {"total": -1}, default={"type": "file", "path": "rest.json"})
    assert fallback.routed_to == ["default"]
    assert len(receiver.seen) == 1


def test_what_passes_by_itself_is_tried_again_alone(context: RecordingContext, receiver: Receiver) -> None:
    receiver.answers += [(200, {}, b""), (503, {}, b""), (503, {}, b""), (200, {}, b"")]
    hooks: list[Any] = [{"name": n, "destination": {"type": "webhook", "connection": "hook"}} for n in ("a", "b")]
    done = route(context, hooks)
    assert [(r.destination, r.attempts) for r in done.results] == [("a", 1), ("b", 3)]
    ids = [seen.headers["webhook-id"] for seen in receiver.seen]
    assert (len(set(ids)), ids[1]) == (2, ids[3]), "each destination has an id of its own, and keeps it"


def test_one_failure_does_not_keep_the_others_from_it(context: RecordingContext, receiver: Receiver) -> None:
    receiver.answers.append((404, {}, b""))
    hooks: list[Any] = [{"name": n, "destination": {"type": "webhook", "connection": "hook"}} for n in ("a", "b")]
    with pytest.raises(PermanentError, match=r"1 of 2 destinations failed: a: .*404") as caught:
        route(context, hooks)
    assert caught.value.code == "delivery_failed"
    assert caught.value.details is not None
    assert [r["status"] for r in caught.value.details["results"]] == ["failed", "delivered"]
    receiver.answers.append((404, {}, b""))
    done = route(context, hooks, on_failure="continue")
    assert (done.failed, done.routed_to) == (1, ["b"])
    assert done.results[0].error is not None
    assert done.results[0].error["code"] == "http_status"


def test_a_failure_is_temporary_only_if_nobody_has_it_yet(context: RecordingContext, receiver: Receiver) -> None:
    gone = {"name": "gone", "destination": {"type": "webhook", "connection": "gone", "attempts": 1}}
    with pytest.raises(TemporaryError):
        route(context, [gone])
    with pytest.raises(PermanentError):
        route(context, [gone, {"destination": {"type": "webhook", "connection": "hook"}}])


@pytest.mark.parametrize(
    "payload", [{"n": 10**5000}, {"text": "\ud800"}, {"table": object()}], ids=["digits", "surrogate", "table"]
)
def test_a_payload_that_no_json_can_say_is_told_for_each(
    payload: Any, context: RecordingContext, receiver: Receiver
) -> None:
    everywhere: list[dict[str, Any]] = [
        {"type": "webhook", "connection": "hook"},
        {"type": "file", "path": "o/1.json"},
        {"type": "file", "path": "o/1.jsonl", "mode": "append"},
    ]
    routes = [{"destination": each} for each in everywhere]
    done = route(context, routes, payload, on_failure="continue")
    assert [r.status for r in done.results] == ["failed"] * 3
    for result in done.results:
        assert result.error is not None
        assert result.error["code"] == "invalid_input"
        assert "cannot be written as JSON" in result.error["message"]
    assert receiver.seen == []
    with pytest.raises(PermanentError, match="cannot be written as JSON"):
        send(context, payload=payload)


def test_a_condition_that_cannot_be_evaluated_sends_nothing(context: RecordingContext, receiver: Receiver) -> None:
    hook = {"type": "webhook", "connection": "hook"}
    with pytest.raises(ExpressionError, match="'broken'"):
        route(context, [{"destination": hook}, {"name": "broken", "when": "payload.nothing > 1", "destination": hook}])
    with pytest.raises(PermanentError, match="'broken'"):
        route(context, [{"destination": hook}, {"name": "broken", "when": "payload.(", "destination": hook}])
    with pytest.raises(PermanentError, match="Two routes are called 'a'"):
        route(context, [{"name": "a", "destination": hook}, {"name": "a", "destination": hook}])
    assert receiver.seen == []


# --- error_router --------------------------------------------------------------------------------------------------

ERROR = {"code": "http_timeout", "message": "No answer.", "stage": "each[3]/load", "attempts": 3}


def test_who_is_told_depends_on_how_bad_it_is(context: RecordingContext, receiver: Receiver, tmp_path: Path) -> None:
    routes = [
        {"name": "pager", "min_severity": "critical", "destination": {"type": "webhook", "connection": "hook"}},
        {"name": "log", "destination": {"type": "file", "path": "errors.ndjson", "mode": "append"}},
        {"name": "sql", "codes": ["sql_error"], "destination": {"type": "webhook", "connection": "hook"}},
    ]
    rules = [{"stages": ["pay"], "severity": "critical"}, {"codes": ["http_timeout"], "severity": "warning"}]
    done = tell(context, ERROR, routes, severity_rules=rules, details={"order": 7})
    assert (done.severity, done.delivered) == ("warning", 1)
    assert [r.status for r in done.results] == ["skipped", "delivered", "skipped"]
    told = json.loads((tmp_path / "errors.ndjson").read_text())
    expected = {**ERROR, "severity": "warning", "pipeline": "test", "run_id": "r_test", "details": {"order": 7}}
    assert {k: told[k] for k in expected} == expected
    bad = tell(replace(context, idempotency_key="2"), {**ERROR, "stage": "each[3]/pay"}, routes, severity_rules=rules)
    assert (bad.severity, bad.delivered, len(receiver.seen)) == ("critical", 2, 1)
    plain = tell(replace(context, idempotency_key="3"), "something", routes)
    assert (plain.severity, plain.delivered) == ("error", 1)


@pytest.mark.parametrize("store", ["files", "redis"])
def test_the_same_error_is_told_once_in_a_while(
    store: str, make_context: Callable[..., RecordingContext], receiver: Receiver, request: pytest.FixtureRequest
) -> None:
    context = make_context(request.getfixturevalue("redis_url")) if store == "redis" else make_context()
    where = {"connection": "cache"} if store == "redis" else {}
    routes = [{"destination": {"type": "webhook", "connection": "hook"}}]
    stage = uuid4().hex

    def say(key: str, code: str = "a", window: float = 600) -> ErrorRouter.Output:
        error = {"code": code, "message": "m", "stage": stage}
        return tell(replace(context, idempotency_key=key), error, routes, dedupe={"window_seconds": window, **where})

    first, second, other = say("1"), say("2"), say("3", code="b")
    assert (first.deduplicated, second.deduplicated, other.deduplicated) == (False, True, False)
    assert second.results[0].reason == "told a short while ago"
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert len(receiver.seen) == 2
    assert say("1").deduplicated is False, "a repeated attempt of the first: its receiver tells by the id"


def test_an_error_is_told_again_when_the_window_is_over_or_nobody_heard(
    context: RecordingContext, receiver: Receiver
) -> None:
    routes = [{"destination": {"type": "webhook", "connection": "hook", "attempts": 1}}]
    receiver.answers.append((500, {}, b""))
    keep = {"dedupe": {"window_seconds": 600}}
    failed = tell(context, ERROR, routes, **keep)
    assert (failed.failed, failed.delivered) == (1, 0)
    again = tell(replace(context, idempotency_key="2"), ERROR, routes, **keep)
    assert (again.deduplicated, again.delivered) == (False, 1)
    over = tell(replace(context, idempotency_key="3"), ERROR, routes, dedupe={"window_seconds": 0.000001})
    assert over.deduplicated is False
    receiver.answers.append((404, {}, b""))
    with pytest.raises(PermanentError, match="1 of 1 destinations failed"):
        tell(replace(context, idempotency_key="4"), "other", routes, on_failure="fail")
