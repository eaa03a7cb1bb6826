"""Composes the application: `wtb_ray.serve.app:build` in a Serve config file.

Composing is all it does; nothing is started here. The controller's replica starts the rest.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve import Application

from wtb_ray import errors
from wtb_ray.serve.controller import ExecutionController
from wtb_ray.serve.ingress import Ingress
from wtb_ray.settings import Settings

Controller = serve.deployment(
    name="ExecutionController",
    max_ongoing_requests=200,
    health_check_period_s=5,
    graceful_shutdown_timeout_s=10,
    ray_actor_options={"num_cpus": 0.05},
)(ExecutionController)


class AppArgs(BaseModel):
    """`args` of the application in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of `wtb_ray.settings` by their names; the environment fills in the rest."""


def build(args: AppArgs) -> Application:
    """The ingress bound to the controller.

    Raises:
        ConfigurationError: A setting does not exist or has a wrong value; names it.
    """
    try:
        settings = Settings(**AppArgs.model_validate(args).settings).absolute()
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise errors.ConfigurationError(f"setting {where}: {first['msg']}", field=where) from e
    return Ingress.bind(settings, Controller.bind(settings))
