"""Fixtures of the SDK's tests: a scripted server and a bench of either kind that talks to it."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.unit.sdk_server import URL, Both, Server
from wtb_ray.sdk import AsyncTestBench, WTBTestBench
from wtb_ray.sdk.calls import Retry


@pytest.fixture
def server() -> Server:
    return Server()


@pytest_asyncio.fixture(params=["sync", "async"])
async def bench(
    request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Both]:
    """The sync and the async bench, impatient."""
    monkeypatch.setattr(Retry, "FIRST_PATIENCE_S", 0.2)
    monkeypatch.setattr(Retry, "FIRST_DELAY_S", 0.001)
    transport = httpx.MockTransport(server)
    if request.param == "sync":
        with WTBTestBench(URL, "secret", transport=transport) as sync:
            yield Both(sync)
    else:
        async with AsyncTestBench(URL, "secret", transport=transport) as asynchronous:
            yield Both(asynchronous)
