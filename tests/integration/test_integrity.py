"""A corruption campaign: every kind of damage is planted, found by its name, and put right or not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.databases import Databases
from tests.integration import damage_lineage, damage_objects, damage_work
from tests.integration.damage import GONE, TABLE, Damage
from tests.integration.damage_lineage import a_case, the_head_of_a_fork, the_newest_version
from tests.integration.damage_objects import tree_of
from tests.integration.damage_work import what_runs_in_a_dead_process
from tests.integration.integrity_bench import Damaged, World, copied
from wtb_ray import errors
from wtb_ray.events import Cursor, EventRow
from wtb_ray.integrity import checking
from wtb_ray.integrity import stored as reports
from wtb_ray.integrity.findings import CATALOGUE
from wtb_ray.integrity.reports import IntegrityRepairs
from wtb_ray.views import read_state

PLANTED = (damage_lineage, damage_objects, damage_work)
"""They fill the table."""


@pytest_asyncio.fixture
async def damaged(
    databases: Databases,
    made_world: tuple[Path, World],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> AsyncIterator[Damaged]:
    name = f"d{abs(hash(request.node.nodeid)):x}"
    async with copied(databases, made_world, name, tmp_path) as made:
        yield made


async def test_nothing_is_wrong_with_what_has_run(damaged: Damaged) -> None:
    light = await damaged.check()
    assert light.items == []
    assert light.healthy
    deep = await damaged.check(deep=True)
    assert (deep.items, deep.deep, deep.truncated) == ([], True, [])


@pytest.mark.parametrize("damage", TABLE, ids=lambda damage: damage.name)
async def test_damage_is_found_by_its_name_and_repaired_or_left_to_people(
    damaged: Damaged, damage: Damage
) -> None:
    if damage.ttl_s is not None:
        damaged.settings = damaged.settings.model_copy(update={"lease_ttl_s": damage.ttl_s})
    ids = {name: str(value) for name, value in (await damage.plant(damaged)).items()}
    report = await damaged.check(deep=damage.deep)
    [found] = [one for one in report.items if one.problem == damage.problem and one.ids == ids]
    entry = CATALOGUE[damage.problem]
    assert (found.kind, found.severity) == (entry.kind, entry.severity)
    assert (found.repair is not None) == (damage.outcome == "repaired")
    assert {one.problem for one in report.items} - {damage.problem} == damage.also
    assert report.healthy == all(one.severity != "critical" for one in report.items)

    before = await told(damaged)
    planned = await damaged.repair(dry_run=True)
    expected = "would_repair" if damage.outcome == "repaired" else damage.outcome
    assert outcome_of(planned, found.id) == expected
    assert await told(damaged) == before
    unchanged = await damaged.check(deep=damage.deep)
    assert {one.id for one in unchanged.items} == {one.id for one in report.items}

    done = await damaged.repair()
    outcome = outcome_of(done, found.id)
    # Of several findings with one cause, the repair of the first does for all.
    assert outcome == damage.outcome or (outcome, damage.outcome) == ("gone", "repaired")
    left = (await damaged.check(deep=damage.deep)).items
    assert [one.id for one in left if one.id == found.id or damage.outcome == "repaired"] == (
        [] if damage.outcome == "repaired" else [found.id]
    )
    if damage.outcome == "repaired":
        told_of = [e["problem"] for e in await told(damaged)]
        assert damage.problem in told_of


def outcome_of(repairs: IntegrityRepairs, finding: str) -> str:
    [one] = [repair for repair in repairs.repairs if repair.finding == finding]
    return one.outcome


async def told(damaged: Damaged) -> list[dict[str, Any]]:
    rows = await damaged.store.events.read(Cursor.START, 10_000, types=["integrity.repaired"])
    return [row.payload for row in rows]


async def test_without_another_copy_an_object_is_left_to_people(damaged: Damaged) -> None:
    damaged.copies["0" * 64] = b""
    digest = await tree_of(damaged)
    damaged.object(digest).unlink()
    [found] = (await damaged.check()).items
    done = await damaged.repair()
    assert [(one.finding, one.outcome) for one in done.repairs] == [(found.id, "manual")]


async def test_what_others_have_in_the_same_tables_is_left_alone(damaged: Damaged) -> None:
    for thread in ("1", "user-7", f"{GONE}", f"{GONE}.x", "E0.0", f"{GONE[:-1]}.0"):
        await damaged.sql(
            "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint, metadata)"
            """ VALUES (%s, 'c', '{"ts": "2020-01-01T00:00:00Z"}', '{}')""",
            thread,
        )
    assert (await damaged.check(deep=True)).items == []


async def test_a_repair_is_of_the_newest_report_and_of_what_is_named(damaged: Damaged) -> None:
    with pytest.raises(errors.NotFound, match="no check has ended"):
        await damaged.repair()
    await a_case(damaged)
    await the_newest_version(damaged)
    report = await damaged.check()
    ids = {one.problem: one.id for one in report.items}
    with pytest.raises(errors.InvalidRequest, match="has no finding f0"):
        await damaged.repair(findings=["f0", ids["version_missing"]])
    done = await damaged.repair(findings=[ids["version_missing"]])
    assert (done.counts, done.report_id) == ({"repaired": 1}, report.id)
    again = await damaged.repair(findings=[ids["version_missing"]])
    assert again.counts == {"gone": 1}
    stored = await reports.report(damaged.store, report.id, 10)
    assert {one.problem: one.outcome for one in stored.items} == {
        "version_missing": "repaired",
        "case_missing": None,
        "batch_counts": None,
    }


async def test_only_what_is_asked_for_is_looked_for(damaged: Damaged) -> None:
    await a_case(damaged)
    await the_newest_version(damaged)
    for only, expected in (
        (["batch_counts"], ["batch_counts"]),
        (["dangling_reference"], ["case_missing", "version_missing"]),
        (["stuck_work", "missing_blob"], []),
    ):
        report = await damaged.check(only=only)
        assert sorted(one.problem for one in report.items) == expected
        assert report.only == only
    with pytest.raises(errors.InvalidRequest, match="no kind or problem 'odd'"):
        await damaged.check(only=["odd"])


async def test_a_report_is_bounded_and_says_so(
    damaged: Damaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "MOST", 3)
    monkeypatch.setattr(checking, "ROWS_AT_ONCE", 2)
    for number in range(8):
        await damaged.sql(
            "INSERT INTO idempotency (key, request, created_at) VALUES (%s, 'r', '2020-01-01')",
            f"k{number}",
        )
    for left in (8, 5, 2):
        report = await damaged.check(only=["key_unfinished"])
        assert report.findings == min(left, 3)
        assert report.truncated == (["key_unfinished"] if left > 3 else [])
        await damaged.repair()
    assert (await damaged.check()).items == []


async def test_what_was_moved_on_between_two_looks_is_not_found(damaged: Damaged) -> None:
    """A suspicion that rests on a claim does not outlive it."""
    await what_runs_in_a_dead_process(damaged)
    async with damaged.checker() as checker:
        checker._pause_s = 0.5
        checking_ = asyncio.create_task(checker.check(only=["running_without_lease"]))
        await asyncio.sleep(0.25)
        await damaged.sql("UPDATE executions SET epoch = epoch + 1 WHERE status = 'RUNNING'")
        assert (await checking_).items == []
    assert (await damaged.check(only=["running_without_lease"])).findings == 1


async def test_it_checks_by_itself_and_tells_the_log(damaged: Damaged) -> None:
    damaged.settings = damaged.settings.model_copy(update={"integrity_every_s": 0.2})
    await a_case(damaged)
    async with damaged.checker(), asyncio.timeout(20):
        while len(rows := await checks_told(damaged)) < 2:
            await asyncio.sleep(0.05)
    assert rows[0].actor == "integrity"
    assert rows[0].payload["healthy"] is False
    assert rows[0].payload["severities"] == {"critical": 1, "warning": 1}
    assert rows[0].payload["kinds"] == {"dangling_reference": 1, "state_mismatch": 1}


async def checks_told(damaged: Damaged) -> list[EventRow]:
    return await damaged.store.events.read(Cursor.START, 100, types=["integrity.checked"])


async def test_an_execution_goes_on_after_its_head_was_repaired(damaged: Damaged) -> None:
    """What was copied back is not only there: it is what a runner goes on from."""
    ids = await the_head_of_a_fork(damaged)
    await damaged.check()
    await damaged.repair()
    fork = await damaged.execution(ids["execution_id"])
    state = await read_state(damaged.db, fork.thread_id, str(fork.head))
    source = await damaged.execution(damaged.world.asking)
    assert state == await read_state(damaged.db, source.thread_id, str(source.head))
    assert state["log"].endswith("asking.log")


def test_every_problem_of_the_catalogue_was_planted() -> None:
    assert {damage.problem for damage in TABLE} == set(CATALOGUE)
    repaired = {damage.problem for damage in TABLE if damage.outcome == "repaired"}
    repairable = {name for name, entry in CATALOGUE.items() if entry.repair is not None}
    assert repairable - repaired <= {"step_without_checkpoint", "missing_bundle"}
