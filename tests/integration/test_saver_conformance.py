"""`Saver(unfenced=True)` is a LangGraph checkpointer, and shares its tables with LangGraph's own."""

from collections.abc import AsyncIterator

from langgraph.checkpoint.conformance import checkpointer_test, validate

from wtb_ray.db import Database
from wtb_ray.saver import Saver


async def test_langgraphs_conformance_suite_passes(db: Database) -> None:
    async def saver() -> AsyncIterator[Saver]:
        yield Saver(db, unfenced=True)

    report = await validate(checkpointer_test(name="wtb")(saver))
    assert report.passed_all_base(), report.to_dict()
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failures == {}
