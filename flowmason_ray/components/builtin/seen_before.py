"""Whether something was said a short while ago, by this run or another: what keeps one cause from filling a mailbox.

What was said is remembered for a time, in files below `.flowmason/` of the project or, for several machines, in Redis. Whoever
asks first is told that it is new. A repeated attempt with the same idempotency key is told the same again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from flowmason_ray.engine.component import Context

FOLDER = Path(".flowmason") / "seen"


def is_new_in_file(context: Context, fingerprint: str, window_s: float) -> bool:
    """Tell whether nobody else said it within the window, and remember that we do."""
    folder = context.project_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    now, key = time.time(), context.idempotency_key
    with (folder / f"{fingerprint}.json").open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        before = _read(file.read())
        if before is not None and before["key"] != key and now - before["at"] < window_s:
            return False
        if before is None or before["key"] != key:
            file.truncate(0)
            file.write(json.dumps({"at": now, "key": key}))
            file.flush()
            os.fsync(file.fileno())
    return True


def forget_in_file(context: Context, fingerprint: str) -> None:
    """Forget that we said it: it did not get out."""
    (context.project_dir / FOLDER / f"{fingerprint}.json").unlink(missing_ok=True)


def _read(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
        return found if {"at", "key"} <= set(found) else None
    except (ValueError, TypeError):
        return None  # empty, or torn by a crash: nobody has said it


async def is_new_in_redis(context: Context, connection: str, fingerprint: str, window_s: float) -> bool:
    """Do the same for several machines, by a key that goes away after the window."""
    from flowmason_ray.components.builtin.redis_client import call, connected

    name = f"flowmason:seen:{fingerprint}"
    async with connected(context, connection, answer_s=10.0) as client:
        milliseconds = max(1, int(window_s * 1000))
        if await call(client, "SET", name, context.idempotency_key, "PX", milliseconds, "NX"):
            return True
        return await call(client, "GET", name) == context.idempotency_key


async def forget_in_redis(context: Context, connection: str, fingerprint: str) -> None:
    """Forget that we said it: it did not get out."""
    from flowmason_ray.components.builtin.redis_client import call, connected

    async with connected(context, connection, answer_s=10.0) as client:
        await call(client, "DEL", f"flowmason:seen:{fingerprint}")
