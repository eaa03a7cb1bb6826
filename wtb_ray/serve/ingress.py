"""The ingress: one stateless Serve deployment for HTTP, server-sent events and gRPC.

Any number of replicas may run and die; nothing that matters lives in one. It reads Postgres itself
and sends commands to the controller's handle.
"""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import PositiveInt, ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from wtb_ray import errors, telemetry
from wtb_ray.db import Database
from wtb_ray.model import Frozen
from wtb_ray.objects import ObjectStore
from wtb_ray.serve import auth
from wtb_ray.serve.context import Context, translated
from wtb_ray.serve.grpc import GrpcMethods
from wtb_ray.serve.http import build_api
from wtb_ray.serve.stream import Feed
from wtb_ray.settings import Settings
from wtb_ray.store import Store


class Tunables(Frozen):
    """What `user_config` may change in a running replica; streams live on."""

    poll_ms: PositiveInt | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None


class IngressReplica(GrpcMethods):
    """One replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, controller: DeploymentHandle
    ) -> None:
        telemetry.configure(settings.log_level)
        auth.require_loopback(settings)
        try:
            url = await controller.database_url.remote()
        except Exception as e:
            raise translated(e) from e
        db = await Database(url, size=settings.pool_size, name="wtb-ingress").open()
        store = Store(db)
        self.context = Context(
            settings=settings,
            db=db,
            store=store,
            objects=ObjectStore(settings.objects()),
            controller=controller,
            feed=Feed(store.events, settings.poll_ms),
            gate=auth.Gate(auth.trusted_peers()),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve asks for the application once the parts are there."""
        return build_api(self.context)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Takes over `user_config` in place.

        Raises:
            ConfigurationError: It names something that cannot be changed here.
        """
        try:
            tunables = Tunables.model_validate(config)
        except ValidationError as e:
            raise errors.ConfigurationError(f"user_config of Ingress: {e}") from e
        poll_ms = tunables.poll_ms or self.context.settings.poll_ms
        self.context.feed.poll_s = poll_ms / 1000
        telemetry.configure(tunables.log_level or self.context.settings.log_level)

    async def check_health(self) -> None:
        """Healthy as long as it answers: what is away elsewhere must not restart all replicas."""


Ingress = serve.deployment(
    name="Ingress",
    max_ongoing_requests=1000,
    health_check_period_s=5,
    graceful_shutdown_timeout_s=10,
    ray_actor_options={"num_cpus": 0.05},
)(serve.ingress()(IngressReplica))
"""To be bound to settings and the controller."""
