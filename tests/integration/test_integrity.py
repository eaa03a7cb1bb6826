"""A corruption campaign: every kind of damage is planted, found by its name, and put right or not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.integrity_bench import Damaged, World, copied, made_world

__all__ = ["made_world"]


@pytest_asyncio.fixture
async def damaged(
    postgres: str, made_world: tuple[Path, World], request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Damaged]:
    name = f"d{abs(hash(request.node.nodeid)):x}"
    async with copied(postgres, made_world, name, tmp_path) as made:
        yield made


async def test_nothing_is_wrong_with_what_has_run(damaged: Damaged) -> None:
    light = await damaged.check()
    assert light.items == []
    assert light.healthy
    deep = await damaged.check(deep=True)
    assert (deep.items, deep.deep, deep.truncated) == ([], True, [])
