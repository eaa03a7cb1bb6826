"""The RPCs of environments: also what another bench asks that has this one as its environment service."""

import asyncio
from typing import Final

from ray.serve.grpc_util import RayServegRPCContext

from wtb_ray import errors
from wtb_ray.control import Operation
from wtb_ray.environment import Environment, EnvironmentRequest, EnvironmentView, EnvSpec
from wtb_ray.rpc import environments_pb2 as pb
from wtb_ray.serve import http_environments
from wtb_ray.serve.context import Context
from wtb_ray.serve.grpc_calls import actor_of, rpc
from wtb_ray.serve.grpc_messages import made, optional, timestamp, value

POLL_S: Final = 0.3
"""How often it is looked whether a build has ended."""


class EnvironmentMethods:
    """To be mixed into the ingress, whose context they use."""

    context: Context

    @rpc
    async def CreateEnvironment(
        self, request: pb.CreateEnvironmentRequest, grpc_context: RayServegRPCContext
    ) -> pb.Environment:
        spec = made(EnvSpec, **value(request.spec, "spec", {}))
        bundle = optional(request, "bundle")
        wanted = made(EnvironmentRequest, spec=spec, bundle=bundle, rebuild=request.rebuild)
        actor = actor_of(grpc_context)
        found = await self.context.command("create_environment", wanted, actor)
        while isinstance(found, Operation) and found.status == "RUNNING":
            await asyncio.sleep(POLL_S)
            found = await self.context.store.operations.get(found.id)
        if not isinstance(found, Operation):
            return _view(found)
        if found.error is not None:
            raise errors.revived(found.error)
        return _view(EnvironmentView.model_validate(found.result))

    @rpc
    async def GetEnvironment(
        self, request: pb.GetEnvironmentRequest, grpc_context: RayServegRPCContext
    ) -> pb.Environment:
        return _view(await http_environments.get_environment(request.digest, self.context))

    @rpc
    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, grpc_context: RayServegRPCContext
    ) -> pb.ListEnvironmentsResponse:
        page = await http_environments.list_environments(
            self.context, request.limit or 50, request.after or None
        )
        items = [_environment(one) for one in page.items]
        return pb.ListEnvironmentsResponse(environments=items, next=page.next or "")

    @rpc
    async def DeleteEnvironment(
        self, request: pb.DeleteEnvironmentRequest, grpc_context: RayServegRPCContext
    ) -> pb.Environment:
        actor = actor_of(grpc_context)
        return _environment(await self.context.command("delete_environment", request.digest, actor))


def _environment(model: Environment) -> pb.Environment:
    return pb.Environment(
        digest=model.digest,
        venv=model.venv,
        spec=model.spec.model_dump_json(),
        packages=model.packages or {},
        created_at=timestamp(model.created_at),
    )


def _view(model: EnvironmentView) -> pb.Environment:
    message = _environment(model)
    if model.pins is not None:
        message.pins.CopyFrom(pb.Pins(lines=model.pins.lines, hashed=model.pins.hashed))
    message.built.extend(
        pb.BuiltEnvironment(host=v.host, status=v.status, path=v.path or "", bytes=v.bytes)
        for v in model.venvs
    )
    return message
