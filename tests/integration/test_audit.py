"""The audit: everything is sealed, by whoever is faster, and whatever changes later is named."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr, ValidationError

from tests.integration.store_bench import StoreBench
from wtb_ray import errors
from wtb_ray.actors import audit
from wtb_ray.actors.audit import AuditSink
from wtb_ray.api import AuditReport
from wtb_ray.audit.keys import make_keys, read_keys
from wtb_ray.audit.objects import SealObjects
from wtb_ray.audit.sealing import Sealer
from wtb_ray.audit.verifying import Anchor, Verifier
from wtb_ray.db import Database
from wtb_ray.events import Cursor, LeaderboardComputed
from wtb_ray.seals import COLUMNS, Keys, Seal
from wtb_ray.settings import Settings, configuration
from wtb_ray.store import Store

KEYS = Keys([b"the key of these tests"])
OTHER_KEYS = Keys([b"somebody else's key"])


class Log:
    """An event log, sealed on demand, and ways to damage it."""

    def __init__(self, db: Database, folder: Path):
        self.db = db
        self.store = Store(db)
        self.folder = folder / "audit"
        self.objects = SealObjects(f"file://{folder}")

    def sealer(self, keys: Keys = KEYS) -> Sealer:
        return Sealer(self.store.audit, self.objects, keys)

    async def write(self, count: int, name: str = "x") -> None:
        async with self.db.transaction() as conn:
            for i in range(count):
                event = LeaderboardComputed(digest=f"{name}{i}\t\\N \N{SNOWMAN}")
                await self.store.events.append(conn, "me", event)

    async def seal(self, keys: Keys = KEYS) -> list[Seal]:
        """Seals all that waits."""
        sealer, made = self.sealer(keys), []
        while await sealer.waiting() and (seal := await sealer.seal()):
            made.append(seal)
        return made

    async def sealed(self, *counts: int) -> list[Seal]:
        """Seals of so many events each."""
        made = []
        for n in counts:
            await self.write(n)
            made += await self.seal()
        return made

    async def verify(self, first: int = 1, keys: Keys = KEYS, **more: Any) -> AuditReport:
        return await Verifier(self.store.audit, self.objects, keys).verify(first, **more)

    async def problems(self, **more: Any) -> list[tuple[str, int | None, str | None]]:
        report = await self.verify(**more)
        assert report.intact == (not report.problems)
        assert report.problem_count == len(report.problems)
        return [(p.kind, p.seal, p.cursor) for p in report.problems]

    async def sql(self, text: str, *params: Any) -> None:
        async with self.db.connection() as conn:
            await conn.execute(text, params)

    async def cursors(self) -> list[str]:
        return [row.cursor for row in await self.store.events.read(Cursor.START, 10_000)]

    def object(self, number: int) -> Path:
        return self.folder / f"seal-{number}.json"


@pytest.fixture
def log(db: Database, tmp_path: Path) -> Log:
    return Log(db, tmp_path)


async def test_the_seals_cover_every_event_and_follow_each_other(log: Log) -> None:
    assert await log.seal() == []
    first, second = await log.sealed(3, 2)
    cursors = await log.cursors()
    assert (first.number, first.after, first.to, first.events) == (1, "0.0", cursors[2], 3)
    assert (second.number, second.after, second.to, second.events) == (2, first.to, cursors[4], 2)
    assert second.previous == first.chain
    assert second.key_id == KEYS.signing
    await log.write(1)
    report = await log.verify()
    assert report.intact
    assert (report.seals, report.events, report.unsealed) == (2, 5, 1)
    assert report.unsealed_since is not None
    assert report.next is None
    assert report.head == f"2:{second.chain}"


async def test_a_seal_has_no_more_than_a_thousand_events(log: Log) -> None:
    assert [s.events for s in await log.sealed(2300)] == [1000, 1000, 300]
    assert (await log.verify()).intact


async def test_the_digest_is_of_every_column(db: Database) -> None:
    rows = await db.rows(
        "SELECT column_name AS name FROM information_schema.columns"
        " WHERE table_name = 'events' ORDER BY ordinal_position"
    )
    assert tuple(row["name"] for row in rows) == COLUMNS


async def test_a_change_of_any_column_is_named(log: Log) -> None:
    await log.sealed(4, 4, 2)
    changes = [
        "at = at + interval '1 microsecond'",
        "at = 'infinity'",
        "type = 'batch.started'",
        "project = ''",
        "execution_id = 'e'",
        "batch_id = 'b'",
        "actor = 'you'",
        "payload = payload || ' '",
    ]
    cursors = await log.cursors()
    for change, cursor in zip(changes, cursors, strict=False):
        seq = cursor.split(".")[1]
        await log.sql(f"UPDATE events SET {change} WHERE seq = %s", seq)
    found = await log.problems()
    assert found == [("event_changed", 1 + i // 4, cursors[i]) for i in range(len(changes))]


async def test_removed_and_added_events_are_named(log: Log) -> None:
    await log.sealed(3, 3)
    before = await log.cursors()
    xid, seq = before[1].split(".")
    await log.sql("DELETE FROM events WHERE xid = %s::text::xid8 AND seq = %s", xid, seq)
    assert await log.problems() == [("event_removed", 1, before[1])]
    insert = (
        "INSERT INTO events (xid, seq, type, actor, payload) OVERRIDING SYSTEM VALUE"
        " VALUES (%s::text::xid8, %s, 'batch.started', 'me', '{}')"
    )
    await log.sql(insert, before[0].split(".")[0], 10**6)
    await log.sql(insert, "0", -5)
    assert await log.problems() == [
        ("event_inserted", 1, "0.-5"),
        ("event_removed", 1, before[1]),
        ("event_inserted", 2, f"{before[0].split('.')[0]}.1000000"),
    ]
    await log.sql("TRUNCATE events")
    assert await log.problems() == [("event_removed", 1 + i // 3, before[i]) for i in range(6)]


async def test_many_changes_are_counted_and_the_first_are_named(log: Log) -> None:
    await log.sealed(300)
    await log.sql("UPDATE events SET actor = 'you'")
    report = await log.verify()
    assert (report.problem_count, len(report.problems)) == (300, 100)


async def test_without_its_object_the_range_is_named(log: Log) -> None:
    [_, seal, _] = await log.sealed(2, 2, 2)
    log.object(2).unlink()
    await log.sql("UPDATE events SET actor = 'you'")
    report = await log.verify()
    kinds = {(p.kind, p.seal) for p in report.problems}
    assert {("object_missing", 2), ("events_differ", 2), ("event_changed", 1)} <= kinds
    [named] = [p for p in report.problems if p.kind == "events_differ"]
    assert (named.after, named.to) == (seal.after, seal.to)


async def test_a_changed_seal_is_found_and_its_object_stands_in(log: Log) -> None:
    changes = [
        "after_seq = after_seq + 1",
        "to_seq = to_seq - 1",
        "events = events + 1",
        "digest = md5(digest)",
        "previous = 'x'",
        "sealed_at = sealed_at - interval '1 s'",
        "sealed_at = 'infinity'",
        "key_id = 'x'",
        "chain = 'x'",
        "mac = 'x'",
    ]
    await log.sealed(*[2] * len(changes))
    for i, change in enumerate(changes, 1):
        await log.sql(f"UPDATE seals SET {change} WHERE number = {i}")
    expected = [("seal_changed", i, None) for i in range(1, len(changes) + 1)]
    assert await log.problems() == expected
    cursor = (await log.cursors())[2]
    await log.sql("UPDATE events SET actor = 'you' WHERE seq = %s", cursor.split(".")[1])
    assert sorted(await log.problems(), key=str) == sorted(
        [*expected, ("event_changed", 2, cursor)], key=str
    )


async def test_removed_seals_are_found_by_their_objects(log: Log) -> None:
    await log.sealed(2, 2, 2, 2)
    await log.sql("DELETE FROM seals WHERE number = 2")
    assert await log.problems() == [("seal_removed", 2, None)]
    await log.sql("DELETE FROM seals WHERE number >= 3")
    assert await log.problems() == [("seal_removed", n, None) for n in (2, 3, 4)]
    log.object(2).unlink()
    assert await log.problems() == [
        ("seal_removed", 2, None),
        ("seal_removed", 3, None),
        ("seal_removed", 4, None),
    ]
    await log.sql("DELETE FROM seals")
    assert len(await log.problems()) == 4


async def test_a_tail_cut_from_both_places_is_found_by_who_has_kept_the_head(log: Log) -> None:
    seals = await log.sealed(2, 2, 2)
    kept = Anchor(3, seals[2].chain)
    assert await log.problems(anchor=kept) == []
    await log.sql("DELETE FROM seals WHERE number = 3")
    await log.sql("DELETE FROM events WHERE seq > 4")
    log.object(3).unlink()
    assert await log.problems() == []
    assert await log.problems(anchor=kept) == [("seal_removed", 3, None)]
    await log.sealed(2)
    assert await log.problems(anchor=kept) == [("seal_replaced", 3, None)]
    assert await log.problems(anchor=Anchor(1, seals[0].chain)) == []


async def test_a_log_that_was_cut_and_sealed_anew_is_found(log: Log) -> None:
    await log.sealed(2, 2, 2)
    await log.sql("DELETE FROM seals WHERE number >= 2")
    await log.sql("DELETE FROM events WHERE seq > 2")
    await log.sealed(1)
    found = [(kind, seal) for kind, seal, _ in await log.problems()]
    assert found[:3] == [("seal_replaced", 2), ("seal_removed", 3), ("chain_broken", 3)]


async def test_seals_made_without_the_key_are_found(log: Log) -> None:
    await log.sealed(2, 2)
    await log.sql("DELETE FROM seals")
    for number in (1, 2):
        log.object(number).unlink()
    await log.sql("UPDATE events SET actor = 'you'")
    await log.seal(OTHER_KEYS)
    assert await log.problems() == [("unknown_key", 1, None)]
    await log.sql("UPDATE seals SET key_id = %s", KEYS.signing)
    assert await log.problems() == [("seal_forged", 1, None)]


async def test_a_seal_with_a_number_far_off_is_found_and_nothing_hangs(log: Log) -> None:
    await log.sealed(2, 2)
    await log.sql("UPDATE seals SET number = 4000000000 WHERE number = 2")
    report = await log.verify()
    assert ("seal_removed", 3) in {(p.kind, p.seal) for p in report.problems}
    assert ("seal_forged", 4_000_000_000) in {(p.kind, p.seal) for p in report.problems}
    assert await log.sealed(1) != []
    assert not (await log.verify()).intact


async def test_a_changed_object_is_found(log: Log) -> None:
    await log.sealed(*[1] * 7)
    body = json.loads(log.object(7).read_bytes())
    body["seal"]["events"] = 7
    contents = [b"", b"{}", b'{"seal": null}', b"\xff", log.object(7).read_bytes(), b"[]"]
    for number, content in enumerate([*contents, json.dumps(body).encode()], 1):
        log.object(number).write_bytes(content)
    expected = [("object_changed", number, None) for number in range(1, 8)]
    assert await log.problems() == expected
    await log.sql("DELETE FROM seals WHERE number = 3")
    assert await log.problems() == [*expected, ("chain_broken", 4, None)][:7]


async def test_a_damaged_index_costs_the_names_and_nothing_else(log: Log) -> None:
    await log.sealed(2, 2)
    path = log.object(1)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "index": "AAAA"}))
    assert await log.problems() == []
    await log.sql("UPDATE events SET actor = 'you' WHERE seq = 1")
    assert await log.problems() == [("events_differ", 1, None)]


async def test_verifying_goes_on_where_it_ended(log: Log) -> None:
    seals = await log.sealed(*[1] * 70)
    report = await log.verify(limit=66)
    assert (report.seals, report.next, report.unsealed) == (66, 67, 0)
    assert report.head == f"66:{seals[65].chain}"
    rest = await log.verify(67)
    assert (rest.seals, rest.events, rest.next, rest.intact) == (4, 4, None, True)
    assert (await log.verify(71)).intact
    assert await log.problems(first=73) == [("seal_removed", 72, None)]
    await log.sql("UPDATE seals SET mac = 'x' WHERE number = 66")
    assert await log.problems(first=67) == [("seal_changed", 66, None)]
    await log.sql("DELETE FROM seals WHERE number >= 69")
    assert await log.problems(first=71) == [("seal_removed", 70, None)]


async def test_an_earlier_key_still_checks(log: Log) -> None:
    await log.sealed(2)
    both = Keys([b"a key that is newer", b"the key of these tests"])
    await log.write(2)
    await log.seal(both)
    assert (await log.verify(keys=both)).intact
    assert await log.problems(keys=OTHER_KEYS) == [("unknown_key", n, None) for n in (1, 2)]
    assert await log.problems(keys=Keys([])) == [("unknown_key", n, None) for n in (1, 2)]


async def test_what_may_still_get_an_earlier_neighbour_is_not_sealed(log: Log) -> None:
    async with log.db.transaction() as conn:
        await log.store.events.append(conn, "slow", LeaderboardComputed(digest="early"))
        await log.write(2, "late")
        assert await log.seal() == []
        assert (await log.verify()).unsealed == 2
    [seal] = await log.seal()
    assert seal.events == 3


async def test_concurrent_sealers_writers_and_a_verifier_miss_nothing(log: Log) -> None:
    done = asyncio.Event()

    async def write(name: str) -> None:
        for i in range(25):
            await log.write(1 + i % 7, name)

    async def keep_sealing() -> int:
        sealer, made = log.sealer(), 0
        while not done.is_set():
            if await sealer.waiting():
                made += await sealer.seal() is not None
            await asyncio.sleep(0)
        return made

    async def keep_verifying() -> int:
        count = 0
        while not done.is_set():
            report = await log.verify()
            assert report.intact, report.problems
            count += 1
        return count

    sealers = [asyncio.create_task(keep_sealing()) for _ in range(3)]
    verifier = asyncio.create_task(keep_verifying())
    await asyncio.gather(*(write(name) for name in "abcd"))
    done.set()
    made = sum(await asyncio.gather(*sealers)) + len(await log.seal())
    assert await verifier
    report = await log.verify()
    assert (report.intact, report.seals, report.unsealed) == (True, made, 0)
    assert report.events == len(await log.cursors()) == 4 * sum(1 + i % 7 for i in range(25))


class Killed(BaseException):
    """Ends a sealer as SIGKILL would: nothing of it runs any more."""


@pytest.mark.parametrize("when", ["before the row", "before the object", "in the object"])
async def test_a_sealer_killed_anywhere_is_taken_over(log: Log, when: str) -> None:
    await log.sealed(2)
    await log.write(2)
    doomed = log.sealer()
    await doomed.waiting()
    await doomed.store_newest()

    async def die(*_: Any) -> Any:
        raise Killed

    if when == "before the row":
        doomed._audit.insert = die  # type: ignore[assignment]
    elif when == "before the object":
        doomed._store = die  # type: ignore[assignment]
    else:
        log.objects._files.write = die  # type: ignore[assignment]
    with pytest.raises(Killed):
        await doomed.seal()
    again = Log(log.db, log.folder.parent)
    assert await again.problems() == []
    sealer = again.sealer()
    await sealer.waiting()
    await sealer.store_newest()
    assert again.object(2).exists() == (when != "before the row")
    await again.sealed(1)
    assert (await again.verify()).intact
    assert [p.name for p in again.folder.iterdir() if p.name.startswith(".")] == []


async def test_a_missing_object_of_the_newest_seal_is_forgiven_for_a_minute(log: Log) -> None:
    await log.sealed(1)
    log.object(1).unlink()
    assert await log.problems() == []
    assert await log.problems(first=2) == []
    await log.sql("DELETE FROM seals")
    old = KEYS.sign(
        (await _seal(log)).model_copy(update={"sealed_at": "2020-01-01T00:00:00+00:00"})
    )
    assert await log.store.audit.insert(old)
    assert await log.problems() == [("object_missing", 1, None)]


async def _seal(log: Log) -> Seal:
    [seal] = await log.seal()
    await log.sql("DELETE FROM seals")
    log.object(1).unlink()
    return seal


@asynccontextmanager
async def sinking(url: str, folder: Path) -> AsyncIterator[AuditSink]:
    sink = AuditSink(Settings(data_dir=folder), url)
    try:
        yield sink
    finally:
        await sink.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.02)


async def test_the_sink_seals_what_has_waited_and_the_rest_at_its_end(
    db: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "POLL_S", 0.02)
    monkeypatch.setattr(audit, "PATIENCE_S", 0.1)
    bench, settings = await StoreBench.make(db), Settings(data_dir=tmp_path)
    async with sinking(url, tmp_path), sinking(url, tmp_path):  # two of them do no harm
        await until(lambda: _sealed_to(bench, 1))
        await bench.execution()
        await until(lambda: _sealed_to(bench, 2))
        monkeypatch.setattr(audit, "PATIENCE_S", 3600.0)
        await bench.execution()
    key = tmp_path / "audit.key"
    assert key.stat().st_mode & 0o777 == 0o600
    async with SealObjects(settings.objects()) as objects:
        report = await Verifier(bench.store.audit, objects, read_keys(settings)).verify()
    assert (report.intact, report.unsealed) == (True, 0)
    secret = key.read_text().strip()
    assert not [p for p in (tmp_path / "objects").rglob("*.json") if secret in p.read_text()]


async def _sealed_to(bench: StoreBench, number: int) -> bool:
    newest = await bench.store.audit.newest()
    return newest is not None and newest[0].number >= number


async def test_a_full_seal_does_not_wait_and_an_outage_loses_nothing(
    db: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "POLL_S", 0.02)
    log = Log(db, tmp_path / "objects")
    (tmp_path / "objects").write_text("no directory")
    await log.write(1500)
    async with sinking(url, tmp_path):
        await asyncio.sleep(0.2)
        (tmp_path / "objects").unlink()
        await until(lambda: _has(log, 1))
        assert not await _has(log, 2)
    report = await log.verify(keys=read_keys(Settings(data_dir=tmp_path)))
    assert (report.intact, report.seals, report.events) == (True, 2, 1500)


async def _has(log: Log, number: int) -> bool:
    return log.object(number).exists()


def test_a_key_of_the_settings_needs_no_file_and_is_never_shown(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, audit_key=SecretStr(f"{'n' * 16},{'o' * 16}"))
    keys = make_keys(given)
    assert not (tmp_path / "audit.key").exists()
    assert keys.signing == Keys([b"n" * 16]).signing
    assert keys.knows(Keys([b"o" * 16]).signing)
    assert "nnnn" not in f"{given!r} {given.model_dump_json()} {configuration(given, '')}"
    other = given.model_copy(update={"audit_key": SecretStr("x" * 16)})
    assert configuration(given, "") != configuration(other, "")
    with pytest.raises(ValidationError, match="at least 16") as e:
        Settings(audit_key=SecretStr("short-secret"))
    assert "short-secret" not in str(e.value)


async def test_one_of_many_makes_the_key_file(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    assert read_keys(settings).knows("anything") is False
    made = await asyncio.gather(*(asyncio.to_thread(make_keys, settings) for _ in range(8)))
    assert len({keys.signing for keys in made}) == 1
    (tmp_path / "new" / "audit.key").write_text("\n")
    with pytest.raises(errors.ConfigurationError, match="holds no key"):
        make_keys(settings)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server with the bucket `wtb`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    fsspec.filesystem(
        "s3", skip_instance_cache=True, endpoint_url=f"http://{host}:{port}", key="k", secret="s"
    ).mkdir("wtb")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("kind", ["memory", "s3"])
async def test_seals_lie_in_any_object_store(
    log: Log, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    async with SealObjects(f"{kind}://wtb/{log.folder.parent.name}") as objects:
        log.objects = objects
        assert await objects.numbers(1) == []
        seals = await log.sealed(2, 2, 2)
        assert (await log.verify()).intact
        assert await objects.numbers(2) == [2, 3]
        assert not await objects.put(seals[0].model_copy(update={"events": 7}), None)
        assert (await log.verify()).intact
        await log.sql("DELETE FROM seals WHERE number = 3")
        await log.sql("UPDATE events SET actor = 'you' WHERE seq = 1")
        assert await log.problems() == [
            ("seal_removed", 3, None),
            ("event_changed", 1, (await log.cursors())[0]),
        ]
    if kind == "s3":
        async with SealObjects("s3://nowhere/p") as nowhere:
            log.objects = nowhere
            with pytest.raises(errors.Unavailable, match="s3://nowhere/p"):
                await log.sealed(1)
