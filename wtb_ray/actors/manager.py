"""An environment service elsewhere, which resolves and builds instead of this bench: over gRPC.

It speaks `wtb.v1.Environments`, as every bench does. What it says an environment comes down to is taken as
it is; what it has built is used where this host sees it, else it is built here from the same pins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import grpc

from wtb_ray import errors
from wtb_ray.environment import EnvSpec, Pins
from wtb_ray.rpc import environments_pb2 as pb
from wtb_ray.rpc.environments_pb2_grpc import EnvironmentsStub

SECURE: Final = "grpcs://"
REFUSED: Final = {
    error.code: error
    for error in (errors.EnvironmentFailed, errors.EnvironmentConflict, errors.PythonMismatch)
}


class Managed(NamedTuple):
    """What a service says of an environment."""

    pins: Pins
    paths: Sequence[Path]
    """Where it is built, on whatever hosts."""


async def ask(url: str, spec: EnvSpec, bundle: str | None, timeout_s: float) -> Managed:
    """Has a service resolve and build an environment.

    Args:
        url: `host:port`, or with `grpcs://` before it for TLS.
        spec: What is asked for.
        bundle: Digest of the code in whose folder wheels are looked for; it has to have that too.
        timeout_s: How long it may take.

    Raises:
        EnvironmentFailed: It cannot be built, in the service's words.
        Unavailable: The service does not answer, or not in time.
    """
    target = url.removeprefix(SECURE).removeprefix("grpc://")
    request = pb.CreateEnvironmentRequest(spec=spec.model_dump_json(), bundle=bundle)
    try:
        async with _channel(url, target) as channel:
            found = await EnvironmentsStub(channel).CreateEnvironment(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as e:
        raise _explained(url, e) from e
    pins = Pins(
        packages=dict(found.packages), lines=tuple(found.pins.lines), hashed=found.pins.hashed
    )
    ready = (one.path for one in found.built if one.status == "READY" and one.path)
    return Managed(pins, [Path(path) for path in ready])


def _channel(url: str, target: str) -> grpc.aio.Channel:
    if url.startswith(SECURE):
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials())
    return grpc.aio.insecure_channel(target)


def _explained(url: str, error: grpc.aio.AioRpcError) -> errors.WTBError:
    code, _, message = (error.details() or "").partition(": ")
    if (kind := REFUSED.get(code)) is not None:
        return kind(message, field="environment", reason="refused", service=url)
    if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
        return errors.EnvironmentFailed(
            f"the environment service {url} refuses: {error.details()}",
            field="environment.uv_manager_url",
            reason=error.code().name,
            service=url,
        )
    return errors.Unavailable(
        f"the environment service {url} does not answer: {error.code().name}: {error.details()}",
        reason="environment_service",
        service=url,
    )
