"""What is only of use for a time goes, and nothing else."""

from tests.integration.store_bench import StoreBench


async def test_old_keys_and_dead_runners_are_forgotten(bench: StoreBench) -> None:
    store = bench.store
    for key in ("old", "new"):
        await store.idempotency.begin(key, "r")
        await store.idempotency.finish(key, 200, "{}")
    epochs = {id: await bench.runner(id) for id in ("dead", "alive")}
    await store.leases.bury("dead", epochs["dead"], "test", actor="test")
    async with bench.db.transaction() as conn:
        await conn.execute(
            "UPDATE idempotency SET created_at = now() - interval '1 day' WHERE key = 'old'"
        )
        await conn.execute("UPDATE leases SET busy_at = now() - interval '1 day'")
    assert await store.retention.prune(3600) == {"keys": 1, "operations": 0, "leases": 1}
    assert await store.idempotency.begin("new", "r") == (200, "{}")
    assert await store.idempotency.begin("old", "other body") is None, "forgotten, so it is free"
    assert [runner.id for runner in await store.leases.runners()] == ["alive"]
    assert await store.retention.prune(3600) == {"keys": 0, "operations": 0, "leases": 0}
