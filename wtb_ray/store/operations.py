"""Commands that took longer than their caller waited, and what became of them."""

from typing import Any, Final

import orjson

from wtb_ray import errors
from wtb_ray.control import Operation
from wtb_ray.db import Database
from wtb_ray.model import canonical
from wtb_ray.store.sql import SQL

LOST_S: Final = 3600.0
"""No command takes longer: whoever carried it out is gone."""


class Operations:
    """Rows of operations; a command that is done in time has none."""

    def __init__(self, db: Database):
        self._db = db

    async def begin(self, id: str, kind: str, execution_id: str | None) -> Operation:
        """Makes a RUNNING operation."""
        params = {"id": id, "kind": kind, "execution_id": execution_id}
        async with self._db.connection() as conn:
            await conn.execute(SQL["insert_operation"], params)
        return await self.get(id)

    async def finish(self, id: str, result: Any) -> None:
        """It is done, with this JSON value; an operation ends once."""
        await self._end(id, "DONE", result=canonical(result))

    async def fail(self, id: str, error: dict[str, Any]) -> None:
        """It was refused or broke: `error` is `{"code", "message", "details"}`."""
        await self._end(id, "FAILED", error=canonical(error))

    async def get(self, id: str) -> Operation:
        """The operation as it is now; one whose carrier is gone has failed.

        Raises:
            UnknownOperation: There is none with this id.
        """
        row = await self._db.row(SQL["operation"], {"id": id, "lost_s": LOST_S})
        if row is None:
            raise errors.UnknownOperation(
                f"there is no operation {id}", field="operation_id", reason="unknown"
            )
        lost = row.pop("lost")
        error = None if row["error"] is None else orjson.loads(row["error"])
        if lost:
            gone = errors.Unavailable("the process that carried it out is gone", reason="lost")
            row["status"], error = "FAILED", gone.body()
        result = None if row["result"] is None else orjson.loads(row["result"])
        return Operation(**{**row, "result": result, "error": error})

    async def _end(
        self, id: str, status: str, *, result: str | None = None, error: str | None = None
    ) -> None:
        params = {"id": id, "status": status, "result": result, "error": error}
        async with self._db.connection() as conn:
            await conn.execute(SQL["end_operation"], params)
