"""How calls of `wtb.v1` come in and fail: callers of this machine only, errors as a status of our own.

Errors reach the client as a gRPC status whose message is `<code>: <text>`; what nobody expected is
`internal: request <id>`, and its traceback goes to the log.
"""

import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeVar, cast

import grpc
import psycopg
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream

from wtb_ray import errors
from wtb_ray.serve import auth
from wtb_ray.serve.context import Context, unstorable

log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


class _Methods(Protocol):
    context: Context


def status_of(context: RayServegRPCContext, error: Exception) -> tuple[str, dict[str, Any]]:
    """The name of the gRPC status that an error means, and its `{"code", "message", "details"}`.

    What nobody expected shows nothing but the id of its request, and is logged.
    """
    known = unstorable(error) if isinstance(error, psycopg.DataError) else error
    if isinstance(known, errors.WTBError):
        return known.grpc_status, known.body()
    trailing = dict(context.trailing_metadata())
    identity = context.request_id() or trailing.get("request_id")
    log.error("request %s", identity, exc_info=error)
    details = {"request_id": identity}
    return "INTERNAL", {"code": "internal", "message": f"request {identity}", "details": details}


def _public(context: RayServegRPCContext, error: Exception) -> RuntimeError:
    """Puts the error's status on the call; returns what is to be raised.

    That is a builtin, because every process can unpickle it, whatever it has installed.
    """
    status, body = status_of(context, error)
    text = f"{body['code']}: {body['message']}"
    context.set_code(grpc.StatusCode[status])
    context.set_details(text)
    return RuntimeError(text)


def rpc(method: Method) -> Method:
    """Makes a method an RPC: callers of this machine only, errors as a status of our own.

    `functools.wraps` keeps the signature, by which Serve sees that it takes `grpc_context`.
    """
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def stream(
            self: _Methods, request: Any, grpc_context: RayServegRPCContext
        ) -> AsyncIterator[Any]:
            try:
                _admit(self.context, request, grpc_context)
                async with aclosing(method(self, request, grpc_context)) as messages:
                    async for message in messages:
                        yield message
            except Exception as e:  # noqa: BLE001 (it becomes the call's status)
                raise _public(grpc_context, e) from None

        return cast(Method, stream)

    @functools.wraps(method)
    async def call(self: _Methods, request: Any, grpc_context: RayServegRPCContext) -> Any:
        try:
            _admit(self.context, request, grpc_context)
            return await method(self, request, grpc_context)
        except Exception as e:  # noqa: BLE001 (it becomes the call's status)
            raise _public(grpc_context, e) from None

    return cast(Method, call)


def _admit(here: Context, request: Any, context: RayServegRPCContext) -> None:
    here.gate.peer(context.peer())
    if not isinstance(request, gRPCInputStream):
        check_size(here, request)


def check_size(here: Context, message: Any) -> None:
    """Refuses a message that is too large.

    Raises:
        InvalidRequest: It has more than `max_body_mb`.
    """
    limit = here.settings.max_body_mb
    if message.ByteSize() > limit << 20:
        raise errors.InvalidRequest(
            f"a message has at most {limit} MiB", field="", reason="too large"
        )


def actor_of(context: RayServegRPCContext) -> str:
    """Who calls, by the metadata `x-actor`.

    Raises:
        InvalidRequest: That is not a name.
    """
    return auth.actor("grpc", dict(context.invocation_metadata()).get("x-actor"))


def going() -> errors.Unavailable:
    """What ends a stream whose replica ends."""
    return errors.Unavailable("this replica is going away; call again to go on")
