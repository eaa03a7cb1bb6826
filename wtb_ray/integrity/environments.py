"""Built environments of the host that this runs on: is there what is said to be built, or to be building?"""

import asyncio
from pathlib import Path
from typing import Any, Final

from psycopg.rows import DictRow

from wtb_ray import flocks, venvs
from wtb_ray.db import Connection, queries
from wtb_ray.integrity.checking import Check, Here, Span, Suspicion, Walk, suspicion

SQL: Final = queries("checks_environments")
VENVS: Final = Walk("venvs", "venv")


async def _missing(here: Here, conn: Connection, span: Span) -> list[Suspicion]:
    """READY ones whose directory is gone."""
    rows = await _rows(here, conn, span, "built")
    there = await asyncio.to_thread(lambda: [Path(row["path"]).is_dir() for row in rows])
    return [
        suspicion("venv_missing", row)
        for row, is_dir in zip(rows, there, strict=True)
        if not is_dir
    ]


async def _abandoned(here: Here, conn: Connection, span: Span) -> list[Suspicion]:
    """BUILDING ones whose lock nobody has."""
    rows = await _rows(here, conn, span, "building")
    root = here.settings.venvs()
    free = await asyncio.to_thread(lambda: [_free(root, row["venv"]) for row in rows])
    return [
        suspicion("venv_abandoned", row) for row, is_free in zip(rows, free, strict=True) if is_free
    ]


async def _rows(here: Here, conn: Connection, span: Span, name: str) -> list[DictRow]:
    if here.processes is None:
        return []
    params: dict[str, Any] = {**here.params(span), "host": await here.processes.host()}
    return await (await conn.execute(SQL[name], params)).fetchall()


def _free(root: Path, venv: str) -> bool:
    lock = venvs.lock_of(root, venv)
    held = flocks.enter(lock)
    if held is None:
        return False
    flocks.leave(lock, held)
    return True


CHECKS: Final[tuple[Check, ...]] = (
    Check("venv_missing", ("venv_missing",), _missing, VENVS, patient=True),
    Check("venv_abandoned", ("venv_abandoned",), _abandoned, VENVS, patient=True),
)
