"""What code needs to run: packages, variables, secrets by name, and resources; and what of it is where.
Models only.

An environment lies over that of the bench: what it does not name is as it is there.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator, ByteSize, Field, field_validator, model_validator

from wtb_ray.frozen import Frozen, digest
from wtb_ray.secret_values import OWN
from wtb_ray.states import VenvStatus

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def _variable(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of letters, digits and _")
    if name.startswith(OWN):
        raise ValueError(f"{name} belongs to the bench")
    return name


def _requirement(text: str) -> str:
    try:
        Requirement(text)
    except InvalidRequirement as e:
        raise ValueError(f"{text!r} is not a requirement such as 'pandas>=2': {e}") from e
    return text


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or not path:
        raise ValueError(f"{path!r} is not a path inside the project's folder")
    return path


Variable = Annotated[str, AfterValidator(_variable)]


class EnvSpec(Frozen):
    """Packages and variables that code needs beside those of the bench."""

    python_version: str | None = Field(default=None, pattern=r"^\d+\.\d+$")
    """`"3.11"`; None is the cluster's. Another one than the cluster's is refused."""
    packages: tuple[Annotated[str, AfterValidator(_requirement)], ...] = ()
    """Requirements such as `pandas>=2`, resolved together with `requirements`."""
    requirements: str | None = Field(default=None, max_length=1 << 20)
    """Text of a requirements file."""
    lock: str | None = Field(default=None, max_length=4 << 20)
    """Text of a lock file in the form of pinned requirements, with or without hashes: installed as it
    is, never resolved. `uv export` and `uv pip compile --generate-hashes` write one."""
    find_links: tuple[Annotated[str, AfterValidator(_relative)], ...] = ()
    """Folders of wheels inside the project's folder, looked at beside the package index."""
    env_vars: dict[Variable, str] = Field(default_factory=dict)
    """Environment variables of the process. Never for what is secret: they are stored and shown."""
    secrets: tuple[Variable, ...] = ()
    """Names of secrets that must be there when the process starts; see `wtb_ray.secret`."""

    @model_validator(mode="after")
    def _one_source(self) -> "EnvSpec":
        if self.lock is not None and (self.packages or self.requirements is not None):
            raise ValueError("a lock is complete: give either it, or packages and requirements")
        both = sorted(set(self.env_vars) & set(self.secrets))
        if both:
            raise ValueError(f"{both[0]} is named under env_vars and under secrets")
        return self

    @property
    def installs(self) -> bool:
        """Whether it asks for anything to be installed."""
        return bool(self.packages or self.requirements or self.lock)

    def digest(self) -> str:
        """SHA-256 of what it says; wherever that is built, platform and base are added to it."""
        return digest(self.model_dump(mode="json"))


class NodeResourceConfig(Frozen):
    """What a node needs to itself: it then runs in an actor of its own that has it."""

    num_cpus: float | None = Field(default=None, ge=0, le=10_000)
    num_gpus: float = Field(default=0, ge=0, le=1_000)
    memory: ByteSize | None = Field(default=None, ge=1)
    """Bytes, or text such as `"2GiB"`."""
    custom_resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Ray's custom resources by name."""
    concurrency: int | None = Field(default=None, ge=1, le=1_000)
    """Calls at once in the actor; None is 1 where resources are asked for, else 16."""

    @field_validator("custom_resources")
    @classmethod
    def _not_built_in(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name in ("CPU", "GPU", "memory", "object_store_memory"):
                raise ValueError(f"{name} has a field of its own")
        return value

    @property
    def asked(self) -> dict[str, float]:
        """What Ray has to reserve, by the names that its state API shows."""
        named = {"CPU": self.num_cpus, "GPU": self.num_gpus or None, "memory": self.memory}
        return {
            **{name: float(amount) for name, amount in named.items() if amount is not None},
            **self.custom_resources,
        }

    def at_once(self) -> int:
        """Calls at once in the actor."""
        return self.concurrency or (1 if self.asked else 16)


class EnvironmentConfig(Frozen):
    """The environments of a project: of all of it, of nodes, of variants."""

    granularity: Literal["workflow", "node", "variant"] = "workflow"
    """The finest parts that may have an environment of their own; finer ones are refused."""
    default_env: EnvSpec | None = None
    """Of all code of the project that has none of its own; None is that of the bench."""
    node_environments: dict[str, EnvSpec] = Field(default_factory=dict)
    """By node. Such a node runs in an actor of its own."""
    uv_manager_url: str | None = Field(default=None, pattern=r"^(grpcs?://)?[\w.\-]+:\d{1,5}$")
    """`host:port` of an environment service that resolves and builds instead of this bench, with
    `grpcs://` before it for TLS. Every bench is one, at its gRPC port."""
    copy_to_workspace: bool = False
    """Copy the installed environment to `.venv` in every workspace, for programs that nodes start."""

    @model_validator(mode="after")
    def _as_fine_as_said(self) -> "EnvironmentConfig":
        if self.node_environments and self.granularity == "workflow":
            raise ValueError('node_environments need granularity="node" or "variant"')
        return self


Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]


class RetryConfig(Frozen):
    """How often a node that raised is tried again at once, before its execution fails.

    What LangGraph's own policy takes for passing is tried again, and what was overloaded or too slow;
    errors such as ValueError are not.
    """

    max_attempts: int = Field(default=3, ge=1, le=1_000)
    """The first one included."""
    initial_interval_s: Seconds = 0.5
    """Seconds before the second attempt."""
    backoff: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    """By what the seconds are multiplied for each further attempt."""
    max_interval_s: Seconds = 128.0
    """Most seconds between two attempts."""
    jitter: bool = True
    """Whether up to a second is added at random."""


class ExecutionConfig(Frozen):
    """How executions of a project run."""

    batch_executor: Literal["ray"] = "ray"
    """Batches run on Ray; nothing else is offered."""
    node_resources: dict[str, NodeResourceConfig] = Field(default_factory=dict)
    """By node. Such a node runs in an actor of its own."""
    recursion_limit: int | None = Field(default=None, ge=1, le=100_000)
    """Most super-steps of an execution that names no limit itself."""
    volatile_nodes: tuple[str, ...] = ()
    """Nodes that depend on more than their state, such as the time: variants never share a run of one."""
    node_timeouts: dict[str, Seconds] = Field(default_factory=dict)
    """By node: longest time of one attempt. Waiting for a limit, and `runtime.heartbeat()`, let it
    begin anew. The thread of a sync node is left behind."""
    default_timeout_s: Seconds | None = None
    """That of nodes without one here or in the graph, but of subgraphs."""
    retries: dict[str, RetryConfig] = Field(default_factory=dict)
    """By node, in place of the graph's own."""


class Pins(Frozen):
    """What an environment comes down to: enough to build the same one again elsewhere."""

    packages: dict[str, str] = Field(default_factory=dict)
    """Version, or place, by canonical name of all that was asked for and what that needs."""
    lines: tuple[str, ...] = ()
    """Requirements of what the base lacks or has otherwise; paths are inside the project's folder."""
    hashed: bool = False
    """Whether every line has hashes, which are enforced."""


class Environment(Frozen):
    """An environment that was asked for."""

    digest: str
    """Of what is installed, the variables, and the names of the secrets."""
    venv: str
    """Digest of what is installed; environments that differ in variables alone share it."""
    spec: EnvSpec
    packages: dict[str, str] | None
    """Version, or place, by name of all that it comes down to; None: not resolved yet."""
    created_at: datetime


class VenvInfo(Frozen):
    """How what is installed for an environment stands on one host."""

    host: str
    venv: str
    """Digest of what is installed."""
    status: VenvStatus
    path: str | None
    """Its directory on that host, once it is built."""
    bytes: int
    build_s: float | None
    """How many seconds it took to build."""
    hits: int
    """How often it was asked for and found."""
    error: dict[str, Any] | None
    """Why it failed: `{"code", "message", "details"}`."""
    permanent: bool
    """Whether that error is the answer until somebody retries."""
    built_at: datetime | None
    used_at: datetime | None


class Venv(Frozen):
    """An environment that is ready on this host."""

    environment: str
    """Digest of the environment."""
    venv: str
    """Digest of what is installed."""
    path: str | None
    """Its directory; None: nothing is installed, the base's interpreter is the right one."""
    python: str | None
    """Its interpreter; None as above."""
    packages: dict[str, str]
    """Version by name of all that was asked for and what that needs, as it is there."""
    hit: bool
    """Whether it was there already."""
    seconds: float
    """How long it took to get."""


class VenvStats(Frozen):
    """What a host's cache of environments has done since it started, and holds now."""

    host: str
    hits: int
    misses: int
    builds: int
    failures: int
    evictions: int
    entries: int
    """Environments that are usable."""
    bytes: int
    """Size of their files."""


class Gone(Frozen):
    """An environment that was removed from a host, or would be."""

    venv: str
    """Its digest; the beginning of it, where no record tells more."""
    path: str
    bytes: int
    reason: str
    """`age`, `size` or `invalid`."""
    used_at: float
    """When it was last used, in seconds since the epoch."""


class EnvironmentRequest(Frozen):
    """Body of `POST environments`."""

    spec: EnvSpec
    bundle: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the uploaded code in whose folder wheels are looked for."""
    rebuild: bool = False
    """Forget what is built of it, and that it failed, and build it anew."""


class EnvironmentView(Environment):
    """An environment, and where it is built."""

    pins: Pins | None = None
    """What has to be installed over the base; null before it was resolved."""
    venvs: list[VenvInfo]


class Pruned(Frozen):
    """What a host's cache removed, or would remove."""

    host: str
    gone: tuple[Gone, ...] = ()
    leftovers: int = 0
    """Directories of builds and removals that were cut off."""
    entries: int = 0
    """Environments that stay."""
    bytes: int = 0
    """Size of what stays."""
    held: int = 0
    """How many of those that stay are in use."""
