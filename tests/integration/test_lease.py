"""The threads beside the loop: the lease outlives a blocked loop, and the blocker is named."""

import asyncio
import sys
import time

from tests import toy
from wtb_ray.actors.lease import LeaseKeeper, LoopWatch, node_on_stack
from wtb_ray.db import Database
from wtb_ray.store import Store


async def test_the_node_that_holds_up_the_loop_is_named() -> None:
    graph = toy.graph().compile()
    held: list[tuple[float, list[str]]] = []
    stalled: list[list[str]] = []
    watch = LoopWatch(lambda lag_ms, nodes: held.append((lag_ms, nodes)), 60, stalled.append)
    watch.start()
    blocking = toy.blocking_graph().compile()
    await asyncio.gather(graph.ainvoke({"x": 1}), blocking.ainvoke({"x": 2}))
    await asyncio.sleep(0.5)
    watch.stop()
    assert [nodes for _, nodes in held] == [["blocker"]]
    assert held[0][0] >= 1500
    assert stalled == []


async def test_a_loop_that_does_not_come_back_is_given_up() -> None:
    stalled: list[list[str]] = []
    watch = LoopWatch(lambda lag_ms, nodes: None, 0.9, stalled.append)
    watch.start()
    await toy.blocking_graph().compile().ainvoke({"x": 2})
    watch.stop()
    assert stalled[0] == ["blocker"]


async def test_a_blocked_loop_keeps_its_lease_and_a_buried_one_is_told(
    db: Database, url: str
) -> None:
    leases = Store(db).leases
    epoch = await leases.start_runner("r1", "v", 4, False, "host", 1, None, 0.6)
    lost: list[bool] = []
    keeper = LeaseKeeper(url, "r1", epoch, 0.6, lambda: lost.append(True))
    keeper.start()
    await asyncio.sleep(0.1)
    time.sleep(1.5)
    (runner,) = await leases.runners()
    assert not runner.expired
    await leases.bury("r1", epoch, "test", actor="test")
    async with asyncio.timeout(10):
        while not lost:
            await asyncio.sleep(0.05)
    keeper.stop()


def test_no_local_variable_of_a_node_ends_the_watch() -> None:
    def odd(config: object) -> str | None:
        return node_on_stack(sys._getframe())

    assert [odd(config) for config in ({"metadata": None}, {"metadata": 3}, {}, None)] == [None] * 4
    assert odd({"metadata": {"langgraph_node": "n"}}) == "n"
