"""Answers to commands by their idempotency key: the same request again gets the same answer."""

from typing import Any, Final

import orjson

from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.model import canonical
from wtb_ray.store.sql import SQL

ABANDONED_S: Final = 150.0
"""Longer than any transaction may last: whoever began the request is gone."""


class Idempotency:
    """Begun and finished requests."""

    def __init__(self, db: Database):
        self._db = db

    async def begin(self, key: str, request_digest: str) -> tuple[int, Any] | None:
        """None when this caller is to do the request now, else the stored status and answer.

        Raises:
            IdempotencyConflict: The key was used with another request.
            Conflict: The same request is still being worked on.
        """
        params = {"key": key, "request": request_digest, "abandoned_s": ABANDONED_S}
        while True:
            if await self._db.row(SQL["begin_request"], params) is not None:
                return None
            row = await self._db.row(SQL["stored_request"], params)
            if row is not None:
                break
        if row["request"] != request_digest:
            raise errors.IdempotencyConflict(
                f"idempotency key {key!r} was used with another request",
                field="Idempotency-Key",
                reason="reused",
            )
        if row["status"] is None:
            raise errors.Conflict(
                f"the request with idempotency key {key!r} is still being worked on",
                field="Idempotency-Key",
                reason="pending",
            )
        return row["status"], orjson.loads(row["response"])

    async def finish(self, key: str, status: int, response: Any) -> None:
        """Stores the answer, any JSON value."""
        async with self._db.connection() as conn:
            await conn.execute(
                SQL["finish_request"],
                {"key": key, "status": status, "response": canonical(response)},
            )

    async def forget(self, key: str) -> None:
        """Frees the key of a request that changed nothing."""
        async with self._db.connection() as conn:
            await conn.execute(SQL["forget_request"], {"key": key})
