"""A replica of the ingress as Serve makes, tunes and ends it, without Serve."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from ray.exceptions import RayActorError

from tests.integration.http_bench import Controller
from wtb_ray import errors
from wtb_ray.db import Database
from wtb_ray.serve.ingress import IngressReplica
from wtb_ray.settings import Settings
from wtb_ray.store import Store


async def started(controller: Controller, settings: Settings) -> IngressReplica:
    replica = IngressReplica.__new__(IngressReplica)
    await replica.__init__(settings, controller)  # type: ignore[misc]  # as Serve does
    return replica


@pytest.fixture
def log_level() -> Iterator[logging.Logger]:
    logger = logging.getLogger("wtb_ray")
    before = logger.level
    yield logger
    logger.setLevel(before)


@pytest_asyncio.fixture
async def replica(db: Database, tmp_path: Path) -> AsyncIterator[IngressReplica]:
    replica = await started(Controller(Store(db)), Settings(data_dir=tmp_path, poll_ms=20))
    yield replica
    await replica.context.close()


async def test_serves_with_the_database_that_the_controller_names(replica: IngressReplica) -> None:
    transport = httpx.ASGITransport(replica.__serve_build_asgi_app__())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/ready")).json()["components"] == {"database": "ok"}


async def test_closes_its_parts_when_serve_ends_it(db: Database, tmp_path: Path) -> None:
    replica = await started(Controller(Store(db)), Settings(data_dir=tmp_path))
    api = replica.__serve_build_asgi_app__()
    async with api.router.lifespan_context(api):
        await replica.context.db.row("SELECT 1")
    with pytest.raises(errors.DatabaseUnavailable):
        await replica.context.db.row("SELECT 1")


async def test_is_tuned_while_it_runs(replica: IngressReplica, log_level: logging.Logger) -> None:
    await replica.reconfigure({"poll_ms": 200, "log_level": "DEBUG"})
    assert (replica.context.feed.poll_s, log_level.level) == (0.2, logging.DEBUG)
    await replica.reconfigure({})
    assert (replica.context.feed.poll_s, log_level.level) == (0.02, logging.INFO)


@pytest.mark.parametrize("config", [{"pol_ms": 5}, {"poll_ms": 0}, {"log_level": "LOUD"}])
async def test_refuses_what_cannot_be_tuned(
    replica: IngressReplica, config: dict[str, object]
) -> None:
    with pytest.raises(errors.ConfigurationError, match="user_config"):
        await replica.reconfigure(config)


async def test_is_healthy_without_a_database(replica: IngressReplica) -> None:
    await replica.context.db.close()
    async with asyncio.timeout(1):
        await replica.check_health()


async def test_does_not_start_where_others_could_connect(db: Database) -> None:
    with pytest.raises(errors.ConfigurationError, match="WTB_HTTP_HOST"):
        await started(Controller(Store(db)), Settings(http_host="0.0.0.0"))


async def test_says_so_when_the_controller_is_away(db: Database) -> None:
    controller = Controller(Store(db))
    controller.failure = RayActorError()
    with pytest.raises(errors.Unavailable):
        await started(controller, Settings())
