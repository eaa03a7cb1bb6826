"""Damage to what lies in the object store."""

import hashlib

from tests.integration.damage import Ids, damage
from tests.integration.integrity_bench import Damaged


async def tree_of(d: Damaged, step: int = 2) -> str:
    found = await d.sql(
        "SELECT manifest FROM steps WHERE thread_id = %s AND step = %s", f"{d.world.line}.0", step
    )
    return str(found)


@damage("missing_manifest", "manual")
async def a_file_tree(d: Damaged) -> Ids:
    digest = await tree_of(d)
    d.object(digest).unlink()
    return {"digest": digest}


@damage("missing_manifest")
async def a_file_tree_that_has_a_copy(d: Damaged) -> Ids:
    digest = await tree_of(d)
    d.copies[digest] = d.object(digest).read_bytes()
    d.object(digest).unlink()
    return {"digest": digest}


@damage("missing_manifest", "manual")
async def a_digest_that_is_none(d: Damaged) -> Ids:
    await d.sql(
        "UPDATE steps SET manifest = 'nonsense' WHERE thread_id = %s AND step = 2",
        f"{d.world.fork}.0",
    )
    return {"digest": "nonsense"}


def _file() -> str:
    """The digest of a file of the trees."""
    return hashlib.sha256(b"first\nsecond\n").hexdigest()


@damage("missing_manifest", "manual", deep=True)
async def a_file_of_a_tree(d: Damaged) -> Ids:
    digest = _file()
    d.object(digest).unlink()
    return {"digest": digest}


@damage("damaged_blob", deep=True)
async def the_bytes_of_a_file_that_has_a_copy(d: Damaged) -> Ids:
    digest = _file()
    d.copies[digest] = d.object(digest).read_bytes()
    d.object(digest).write_bytes(b"something else")
    return {"digest": digest}


@damage("damaged_blob", "manual", deep=True)
async def the_bytes_of_a_file_tree(d: Damaged) -> Ids:
    digest = await tree_of(d)
    stored = d.object(digest).read_bytes()
    d.object(digest).write_bytes(stored[:-3] + b"???")
    return {"digest": digest}


async def bundle_of(d: Damaged) -> str:
    return str(
        await d.sql(
            "SELECT spec::json ->> 'bundle' FROM project_versions WHERE project = 'bundled'"
        )
    )


@damage("missing_bundle", "manual")
async def the_code_of_a_project(d: Damaged) -> Ids:
    digest = await bundle_of(d)
    d.object(digest).unlink()
    return {"digest": digest}


@damage("damaged_blob", deep=True)
async def the_bytes_of_a_bundle_that_has_a_copy(d: Damaged) -> Ids:
    digest = await bundle_of(d)
    d.copies[digest] = d.object(digest).read_bytes()
    d.object(digest).write_bytes(b"")
    return {"digest": digest}


@damage("missing_part")
async def a_part_of_results(d: Damaged) -> Ids:
    digest = str(await d.sql("SELECT digest FROM result_parts"))
    d.object(digest).unlink()
    return {"batch_id": d.world.batch, "digest": digest}


@damage("missing_part", deep=True)
async def the_bytes_of_a_part_of_results(d: Damaged) -> Ids:
    digest = str(await d.sql("SELECT digest FROM result_parts"))
    d.object(digest).write_bytes(b"PAR1")
    return {"batch_id": d.world.batch, "digest": digest}
