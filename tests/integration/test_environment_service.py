"""An environment service elsewhere: what it resolves and builds is what is used here."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.wheels import make_wheel, no_index
from wtb_ray import errors
from wtb_ray.actors.venvs import VenvCache
from wtb_ray.environment import EnvSpec, Venv
from wtb_ray.rpc import environments_pb2 as pb
from wtb_ray.rpc.environments_pb2_grpc import (
    EnvironmentsServicer,
    add_EnvironmentsServicer_to_server,
)
from wtb_ray.settings import Settings


class Service(EnvironmentsServicer):  # type: ignore[misc]
    """Answers as a bench does, from a cache of its own."""

    def __init__(self, answer: Callable[[], Awaitable[pb.Environment]]) -> None:
        self.answer = answer
        self.asked: list[EnvSpec] = []

    async def CreateEnvironment(
        self, request: pb.CreateEnvironmentRequest, context: Any
    ) -> pb.Environment:
        self.asked.append(EnvSpec.model_validate_json(request.spec))
        try:
            return await self.answer()
        except errors.WTBError as e:
            await context.abort(grpc.StatusCode[e.grpc_status], f"{e.code}: {e.message}")
            raise


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    yield server, f"127.0.0.1:{port}"
    await server.stop(None)


Made = Callable[[str], VenvCache]


@pytest.fixture
def cache(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    for name, value in no_index(tmp_path).items():
        monkeypatch.setenv(name, value)

    def made(name: str) -> VenvCache:
        return VenvCache(Settings(data_dir=tmp_path / name), url, name, imports=("packaging",))

    return made


async def test_what_a_service_resolves_is_built_here(
    server: tuple[grpc.aio.Server, str], cache: Made, tmp_path: Path
) -> None:
    """The pins are those of the service, whatever would have been found here."""
    grpc_server, address = server
    asked = EnvSpec(packages=("packaging",))

    async def answer() -> pb.Environment:
        return pb.Environment(packages={"packaging": "as there"}, pins=pb.Pins())

    service = Service(answer)
    add_EnvironmentsServicer_to_server(service, grpc_server)
    await grpc_server.start()
    here = cache("here")
    try:
        got = await here.acquire(asked, None, address)
        assert got.path is not None
        assert Path(got.path).is_relative_to(tmp_path / "here")
        known = await here._store.environments.pins(got.venv)
        assert known is not None
        assert known.packages == {"packaging": "as there"}
        assert service.asked == [asked]
        again = await here.acquire(asked, None, address)
        assert (again.hit, len(service.asked)) == (True, 1), "what is here is not asked for"
    finally:
        await here.close()


async def test_what_a_service_has_built_on_this_host_is_used_where_it_is(
    server: tuple[grpc.aio.Server, str], cache: Made, tmp_path: Path
) -> None:
    grpc_server, address = server
    asked = EnvSpec(packages=("packaging",))
    there, here = cache("there"), cache("here")
    built: list[Venv] = []

    async def answer() -> pb.Environment:
        built.append(await there.acquire(asked))
        [venv] = built
        place = pb.BuiltEnvironment(host="there", status="READY", path=venv.path or "")
        return pb.Environment(packages=venv.packages, built=[place])

    add_EnvironmentsServicer_to_server(Service(answer), grpc_server)
    await grpc_server.start()
    try:
        got = await here.acquire(asked, None, address)
        assert (got.path, got.venv) == (built[0].path, built[0].venv)
        assert got.path is not None
        assert Path(got.path).is_relative_to(tmp_path / "there")
    finally:
        await asyncio.gather(here.close(), there.close())


async def test_what_a_service_refuses_is_refused_in_its_words(
    server: tuple[grpc.aio.Server, str], cache: Made, tmp_path: Path
) -> None:
    grpc_server, address = server
    make_wheel(tmp_path, "lab", "1.0")
    here, asked = cache("here"), EnvSpec(packages=("lab",))
    try:
        with pytest.raises(errors.Unavailable, match="does not answer"):
            await here.acquire(asked, None, "127.0.0.1:1")

        async def answer() -> pb.Environment:
            raise errors.EnvironmentConflict("you want pydantic<2, and the bench needs it")

        add_EnvironmentsServicer_to_server(Service(answer), grpc_server)
        await grpc_server.start()
        with pytest.raises(errors.EnvironmentConflict, match="the bench needs it"):
            await here.acquire(asked, None, address)
    finally:
        await here.close()
