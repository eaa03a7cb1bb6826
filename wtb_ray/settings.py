"""Every setting, read once from `WTB_*` and passed on as a value."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from wtb_ray import __version__

MOST_RUNNERS: Final = 16
"""Runners of a pool unless more are asked for: each holds some database connections."""


class Settings(BaseSettings):
    """Settings of one installation. Each is the environment variable `WTB_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="WTB_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )
    AUDIT_KEY_MIN: ClassVar[int] = 16

    data_dir: Path = Path(".wtb")
    """Where embedded Postgres, local objects and unpacked bundles live."""
    database_url: str | None = None
    """A Postgres URL. Unset: the embedded Postgres under `data_dir`."""
    objects_url: str | None = None
    """An fsspec URL for objects. Unset: `data_dir/objects`."""
    http_host: str = "127.0.0.1"
    """Where HTTP listens; only loopback is accepted until tokens exist."""
    http_port: PositiveInt = 8000
    """Port of HTTP, SSE and WebSocket."""
    grpc_port: PositiveInt = 9000
    """Port of gRPC."""
    dashboard_port: PositiveInt = 8265
    """Port of the Ray dashboard."""
    runner_slots: PositiveInt = 64
    """Executions at once in one runner; sync nodes get as many threads."""
    runners_per_pool: PositiveInt = Field(
        default_factory=lambda: min(os.cpu_count() or 1, MOST_RUNNERS)
    )
    """Most runner processes that serve one version of one project."""
    runners_min: NonNegativeInt = 0
    """Least runner processes of a version that has work, however little waits."""
    runners_max: PositiveInt = 64
    """Most runner processes of all versions together; they share them equally."""
    runner_cpus: Annotated[float, Field(gt=0)] = 0.1
    """CPUs that Ray reserves for a runner."""
    runner_memory_mb: PositiveInt | None = None
    """A runner above so many MiB takes no more work, and Ray reserves them. Unset: half of its host, unreserved."""
    memory_free: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The part of a host's memory below which, left free, its runners take no more work."""
    chunk_size: PositiveInt = 32
    """Executions handed to a runner in one call."""
    lease_ttl_s: PositiveFloat = 15.0
    """A runner whose lease was not renewed for this long may be taken for dead."""
    workspace_grace_s: PositiveFloat = 3600.0
    """How long a directory that no execution needs any more is left for somebody to look at."""
    warm_after_s: PositiveFloat = 300.0
    """A paused execution that keeps everything is parked warm after this time."""
    cold_after_s: PositiveFloat = 1800.0
    """One that is parked warm is parked cold after this time."""
    reserved_runners: NonNegativeInt = 4
    """Most processes of a pool that are kept for paused executions with a process of their own."""
    drain_grace_s: PositiveFloat = 10.0
    """How long executions may go on to their next boundary when their runner is to end."""
    command_memory_s: PositiveFloat = 7 * 86_400.0
    """How long idempotency keys, ended operations and rows of dead runners are remembered."""
    integrity_every_s: NonNegativeFloat = 3600.0
    """How often everything is held against each other, without reading objects; 0: never by itself."""
    integrity_grace_s: PositiveFloat = 86_400.0
    """A repair deletes nothing that is younger, whoever has lost it."""
    idle_pool_s: PositiveFloat = 300.0
    """A runner without work ends after this time, but for the least of a version that has work."""
    idle_node_s: PositiveFloat = 30.0
    """The actor of a node that holds resources is ended when it was not called for this time."""
    secrets_dir: Path | None = None
    """Where `wtb_ray.secret` looks for files, beside the environment. Unset: `/run/secrets`."""
    venv_max_gb: PositiveFloat = 20.0
    """Above this many GB of environments on a host, those go that were not used for longest."""
    venv_max_age_days: PositiveFloat = 7.0
    """An environment that was not used for this long goes."""
    venv_build_timeout_s: PositiveFloat = 600.0
    """Longest time in which an environment is resolved and built."""
    infrastructure_retries: PositiveInt = 5
    """How often an execution is started again after infrastructure errors before it fails."""
    stop_grace_s: PositiveFloat = 5.0
    """How long a stopped execution's nodes may go on before they are left behind."""
    stall_limit_s: PositiveFloat = 300.0
    """A runner whose event loop a node has held up for this long ends; its executions go on."""
    entry_timeout_s: PositiveFloat = 60.0
    """Longest time that importing an entry and building its graph may take."""
    recursion_limit: PositiveInt = 100
    """Most super-steps of an execution unless it names its own limit."""
    max_cells: PositiveInt = 200_000
    """Most cells of one batch."""
    max_body_mb: PositiveInt = 64
    """Largest request body and largest bundle."""
    pool_size: PositiveInt = 4
    """Database connections of one process."""
    poll_ms: PositiveInt = 50
    """How often a process looks for new events."""
    audit_key: SecretStr | None = None
    """Key of the audit seals; earlier keys, which only check, after commas. Unset: a file in `data_dir`."""
    gc_every_s: NonNegativeFloat = 6 * 3600.0
    """How often stored objects that nothing names are deleted; 0: only when somebody asks for it."""
    gc_grace_s: NonNegativeFloat = 86_400.0
    """How long an object that nothing names is left after it was written, by the store's clock."""
    rehash_mb_s: PositiveFloat = 32.0
    """The most that checking stored objects reads, in MiB a second."""
    objects_mirror_url: str | None = None
    """An fsspec URL of a copy of the object store, from which damaged objects are repaired."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Level of the bench's own log lines."""

    @field_validator("audit_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if any(len(key) < cls.AUDIT_KEY_MIN for key in value.get_secret_value().split(",")):
            raise ValueError(f"a key has at least {cls.AUDIT_KEY_MIN} characters")
        return value

    @model_validator(mode="after")
    def _bounds(self) -> "Settings":
        if self.runners_min > self.runners_per_pool:
            raise ValueError(
                f"runners_min is {self.runners_min}, more than runners_per_pool,"
                f" which is {self.runners_per_pool}"
            )
        return self

    def audit_keys(self) -> list[str]:
        """The audit keys that are set, the one that signs first."""
        return [] if self.audit_key is None else self.audit_key.get_secret_value().split(",")

    def objects(self) -> str:
        """The object store's URL, with the default filled in."""
        return self.objects_url or f"file://{self.data_dir.resolve() / 'objects'}"

    def workspaces(self) -> Path:
        """Where workspaces lie on each host."""
        return self.data_dir.resolve() / "ws"

    def venvs(self) -> Path:
        """Where built environments lie on each host."""
        return self.data_dir.resolve() / "venvs"

    def for_runners(self) -> "Settings":
        """The same settings without the seals' key: what seals are for is what user code may do."""
        return self.model_copy(update={"audit_key": None})

    def absolute(self) -> "Settings":
        """The same settings with `data_dir` absolute, fit to be sent to other processes."""
        return self.model_copy(update={"data_dir": self.data_dir.resolve()})


def configuration(settings: Settings, url: str) -> str:
    """A digest of what an actor was made with, the bench's version included; it tells no values."""
    text = f"{__version__} {url} {settings.model_dump_json()} {','.join(settings.audit_keys())}"
    return hashlib.sha256(text.encode()).hexdigest()
