"""What rows name in the object store: is it there, and (deep) is it what its digest says?

A light check asks for the objects that rows name. A deep one reads each file tree to its last file,
a bounded part at a time, and whatever was found sound once is not read again in the same check.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from wtb_ray import errors, manifests
from wtb_ray.db import Connection, queries
from wtb_ray.integrity.checking import Check, Here, Span, Suspicion, Walk, of_rows
from wtb_ray.manifests import EMPTY

SQL: Final = queries("checks_files")
ASKED_AT_ONCE: Final = 32
READ_AT_ONCE: Final = 8
IN_MEMORY: Final = 8 << 20
"""Larger objects are read through a file."""
MISSING: Final = "missing"
DAMAGED: Final = "damaged"

Faults = dict[str, str]
"""What is wrong with an object, by digest."""


async def absent(here: Here, digests: Iterable[str]) -> Faults:
    """Those of the objects that are not there; what is no digest is not."""
    room = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(digest: str) -> bool:
        async with room:
            try:
                return await here.objects.exists(digest)
            except errors.InvalidRequest:
                return False

    wanted = [digest for digest in dict.fromkeys(digests) if digest != EMPTY]
    answers = await asyncio.gather(*map(ask, wanted))
    return {digest: MISSING for digest, there in zip(wanted, answers, strict=True) if not there}


async def unsound(here: Here, digest: str, size: int | None = None) -> Faults:
    """What is wrong with an object's bytes."""
    if digest in here.seen:
        return {}
    try:
        if size is None or size <= IN_MEMORY:
            await here.objects.get(digest)
        else:
            await _through_file(here, digest)
    except (errors.NotFound, errors.InvalidRequest):
        return {digest: MISSING}
    except errors.ObjectCorrupt:
        return {digest: DAMAGED}
    here.seen.add(digest)
    return {}


async def _through_file(here: Here, digest: str) -> None:
    folder = TemporaryDirectory(prefix="wtb-integrity-")
    try:
        await here.objects.get_file(digest, Path(folder.name) / "object")
    finally:
        await asyncio.to_thread(folder.cleanup)


async def unsound_tree(here: Here, digest: str) -> Faults:
    """What is wrong with a file tree, its directories and files."""
    if digest == EMPTY or digest in here.seen:
        return {}
    try:
        listing = manifests.decoded(digest, await here.objects.get(digest))
    except (errors.NotFound, errors.InvalidRequest):
        return {digest: MISSING}
    except errors.ObjectCorrupt:
        return {digest: DAMAGED}
    room = asyncio.Semaphore(READ_AT_ONCE)

    async def read(entry: manifests.Entry) -> Faults:
        async with room:
            return await unsound(here, entry.value, entry.size)

    files = {entry.value: entry for entry in listing if entry.kind == "file"}
    faults: Faults = {}
    for found in await asyncio.gather(*map(read, files.values())):
        faults.update(found)
    for entry in listing:
        if entry.kind == "dir":
            faults.update(await unsound_tree(here, entry.value))
    if not faults:
        here.seen.add(digest)
    return faults


def _trees(name: str, walk: Walk) -> Check:
    """The check of the file trees that a statement names."""

    async def look(here: Here, conn: Connection, span: Span) -> list[Suspicion]:
        cursor = await conn.execute(SQL[name], here.params(span))
        rows = {row["digest"]: row for row in await cursor.fetchall()}
        if not here.deep:
            faults = {
                digest: {digest: fault} for digest, fault in (await absent(here, rows)).items()
            }
        else:
            faults = {digest: await unsound_tree(here, digest) for digest in rows}
        return [
            Suspicion(
                "missing_manifest" if fault == MISSING else "damaged_blob",
                rows[tree]["key"],
                {"digest": digest, "named_by": rows[tree]["named_by"]},
                here.repair_object is not None,
            )
            for tree, found in faults.items()
            for digest, fault in found.items()
        ]

    return Check(name, TREES, look, walk)


def _singles(name: str, walk: Walk, missing: str, damaged: str) -> Check:
    """The check of single objects that a statement names, by the problems that it finds."""

    async def look(here: Here, conn: Connection, span: Span) -> list[Suspicion]:
        rows = await (await conn.execute(SQL[name], here.params(span))).fetchall()
        faults: Faults = {}
        if here.deep:
            for row in rows:
                faults.update(await unsound(here, row["digest"]))
        else:
            faults = await absent(here, [row["digest"] for row in rows])
        able = here.repair_object is not None or missing == damaged
        return [
            Suspicion(
                missing if faults[row["digest"]] == MISSING else damaged, row["key"], row, able
            )
            for row in rows
            if row["digest"] in faults
        ]

    return Check(name, tuple(dict.fromkeys((missing, damaged))), look, walk)


STEPS: Final = Walk("steps", "thread_id")
POINTS: Final = Walk("restore_points", "thread_id")
RESTORES: Final = Walk("restores", "id", -1)
TREES: Final = ("missing_manifest", "damaged_blob")

CHECKS: Final[tuple[Check, ...]] = (
    *of_rows(SQL, STEPS, "orphan_commit"),
    *of_rows(SQL, POINTS, "orphan_commit__points"),
    *of_rows(SQL, RESTORES, "orphan_restore"),
    _trees("trees_of_steps", STEPS),
    _trees("trees_of_points", POINTS),
    _trees("trees_of_restores", RESTORES),
    _singles("bundles", Walk("project_versions", "version"), "missing_bundle", "damaged_blob"),
    _singles("parts", Walk("result_parts", "batch_id"), "missing_part", "missing_part"),
)
