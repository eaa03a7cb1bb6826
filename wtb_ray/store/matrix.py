"""The matrix of a batch as rows: its cases and cells, and what is added to them later."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import psycopg
from psycopg.rows import DictRow

from wtb_ray import errors, events, plan
from wtb_ray.db import Connection
from wtb_ray.model import Case, canonical
from wtb_ray.model import digest as digest_of
from wtb_ray.states import BatchStatus
from wtb_ray.store import projects
from wtb_ray.store.reruns import go_on
from wtb_ray.store.sql import SQL

Place = tuple[int, int, int, int]
"""Of a cell: ordinal, variant, case ordinal, repetition."""

COPIED: Final = 4096
"""Rows in one buffer of a COPY."""


async def copy_cases(conn: Connection, id: str, cases: Sequence[Case], first: int = 0) -> None:
    """Stores cases under ordinals from `first` on.

    Raises:
        InvalidCases: A case id comes twice or holds what no text can.
    """
    try:
        async with conn.cursor() as cursor, cursor.copy(SQL["copy_cases"]) as copy:
            for ordinal, case in enumerate(cases, first):
                await copy.write_row((id, ordinal, *_case(case)))
    except (psycopg.DataError, UnicodeError, orjson.JSONEncodeError) as e:
        raise errors.InvalidCases(
            f"a case cannot be stored: {e}", field="cases", reason=str(e)
        ) from e
    except psycopg.errors.UniqueViolation as e:
        raise errors.InvalidCases(
            f"a case id comes twice: {e.diag.message_detail}", field="cases", reason="twice"
        ) from e


def _case(case: Case) -> tuple[str, str, str, str, str, str | None]:
    return (
        case.id,
        _digest(case),
        canonical(case.input),
        canonical(case.expected),
        canonical(case.metadata),
        canonical(case.answers) if case.answers else None,
    )


def _digest(case: Case) -> str:
    answers = {"answers": case.answers} if case.answers else {}
    return digest_of({"input": case.input, "expected": case.expected, **answers})


async def copy_cells(conn: Connection, id: str, places: Sequence[Place]) -> None:
    """Stores PENDING cells."""
    async with conn.cursor() as cursor, cursor.copy(SQL["copy_cells"]) as copy:
        for start in range(0, len(places), COPIED):
            lines = (
                f"{id}\t{ordinal}\t{variant}\t{case}\t{repetition}\n"
                for ordinal, variant, case, repetition in places[start : start + COPIED]
            )
            await copy.write("".join(lines))


async def extend(
    conn: Connection,
    batch: DictRow,
    cases: Sequence[Case],
    bindings: Sequence[Mapping[str, str]],
    repetitions: int | None,
    max_cells: int,
    actor: str,
) -> int:
    """Adds what a batch, whose row is locked, does not have yet; gives how many cells that are.

    Cells that are there stay as they are; a batch that has ended goes on. Where nothing is missing,
    nothing happens.

    Raises:
        InvalidTransition: It has failed.
        Conflict: A case or variant is known by this name as another one, or there would be fewer
            repetitions.
        TooManyCells: There would be more than `max_cells`; none is made.
        ProjectInactive: Nothing new of its project may start.
        ProjectRemoved: Its project was removed.
    """
    _refuse_failed(batch)
    names, more = _new_variants(batch, bindings)
    fresh = await _new_cases(conn, batch["id"], cases)
    had = plan.Sides(len(batch["variants"]), batch["cases"], batch["repetitions"])
    wanted = plan.Sides(
        had.variants + len(more), had.cases + len(fresh), _repetitions(batch, repetitions)
    )
    next_ordinal = await _next_ordinal(conn, batch["id"])
    places = plan.added(had, wanted, next_ordinal, max_cells)
    if wanted == had:
        return 0
    made = list(places)
    await projects.may_start(conn, batch["project"])
    await copy_cases(conn, batch["id"], fresh, had.cases)
    await copy_cells(conn, batch["id"], made)
    params: dict[str, Any] = {
        "id": batch["id"],
        "bindings": canonical([*orjson.loads(batch["bindings"]), *more]),
        "variants": [*batch["variants"], *names],
        "cases": wanted.cases,
        "repetitions": wanted.repetitions,
        "cells": len(made),
    }
    await conn.execute(SQL["extend_batch"], params)
    event = events.BatchExtended(
        variants=names,
        cases=len(fresh),
        repetitions=wanted.repetitions,
        cells=len(made),
        reopened=batch["status"] in (BatchStatus.COMPLETED, BatchStatus.CANCELLED),
    )
    await go_on(conn, batch, event, actor)
    return len(made)


def _refuse_failed(batch: DictRow) -> None:
    if batch["status"] == BatchStatus.FAILED:
        raise errors.InvalidTransition(
            f"batch {batch['id']} is FAILED: run its cells again before anything is added",
            field="status",
            reason="extend does not apply",
            state=batch["status"],
            command="extend",
        )


async def _next_ordinal(conn: Connection, id: str) -> int:
    row = await (await conn.execute(SQL["next_ordinal"], {"id": id})).fetchone()
    ordinal: int = 0 if row is None else row["ordinal"]
    return ordinal


def _repetitions(batch: DictRow, wanted: int | None) -> int:
    had: int = batch["repetitions"]
    if wanted is not None and wanted < had:
        raise errors.Conflict(
            f"batch {batch['id']} has {had} repetitions: what is there stays",
            field="repetitions",
            reason=f"is below {had}",
        )
    return wanted or had


def _new_variants(
    batch: DictRow, bindings: Sequence[Mapping[str, str]]
) -> tuple[list[str], list[Mapping[str, str]]]:
    """Names and bindings of those that the batch does not have.

    Raises:
        Conflict: One has the name of another one.
    """
    known = dict(zip(batch["variants"], orjson.loads(batch["bindings"]), strict=True))
    names = plan.variant_names(bindings, field="variants")
    fresh = [i for i, name in enumerate(names) if name not in known]
    for i in set(range(len(names))) - set(fresh):
        if known[names[i]] != bindings[i]:
            raise errors.Conflict(
                f"batch {batch['id']} has another variant {names[i]!r}",
                field=f"variants.{i}",
                reason="differs",
                known=known[names[i]],
            )
    return [names[i] for i in fresh], [bindings[i] for i in fresh]


async def _new_cases(conn: Connection, batch_id: str, cases: Sequence[Case]) -> list[Case]:
    """Those that the batch does not have.

    Raises:
        Conflict: One has the id of another one.
    """
    params = {"batch_id": batch_id, "ids": [case.id for case in cases]}
    rows = await (await conn.execute(SQL["known_cases"], params)).fetchall()
    known = {row["case_id"]: row["digest"] for row in rows}
    for i, case in enumerate(cases):
        if known.get(case.id, "") not in ("", _digest(case)):
            raise errors.Conflict(
                f"batch {batch_id} has another case {case.id!r}: its input, answers or what is expected differ",
                field=f"cases.{i}",
                reason="differs",
            )
    return [case for case in cases if case.id not in known]
