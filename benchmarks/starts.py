"""What an environment costs at the start of a runner: with one that is built already, and with none.

On a stack as `wtb up` starts it. A new version of a project is registered again and again, with pandas and
scikit-learn in its environment and without one, in turns: that starts a runner process, which imports
the project and takes its lease. The first of both is not counted: it builds the environment.
"""

import time
from typing import Any, Final

from benchmarks import common
from wtb_ray.sdk import EnvironmentConfig, EnvSpec, WorkflowProject

LIMIT: Final = 1.3
ENVIRONMENT: Final = EnvironmentConfig(
    default_env=EnvSpec(packages=("pandas", "scikit-learn"), env_vars={"MODE": "bench"})
)


def run(*, repeats: int = 7) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the target."""
    seconds: dict[str, list[float]] = {"none": [], "pandas + scikit-learn": []}
    with common.stack(idle_pool_s=1) as stack:
        for number in range(repeats + 1):
            for kind, taken in seconds.items():
                environment = None if kind == "none" else ENVIRONMENT
                taken.append(_started(stack, f"{number}", environment))
    first = {kind: taken.pop(0) for kind, taken in seconds.items()}
    medians = {kind: common.median(taken) for kind, taken in seconds.items()}
    rows = [
        (kind, f"{medians[kind]:.2f}", " ".join(f"{s:.2f}" for s in taken))
        for kind, taken in seconds.items()
    ]
    common.table(("start of a runner with", "median s", "all"), rows)
    ratio = medians["pandas + scikit-learn"] / medians["none"]
    result = {"seconds": seconds, "first_s": first, "ratio": ratio}
    return result, [common.Target("warm start with an environment", ratio, LIMIT, unit="x")]


def _started(stack: common.Stack, mark: str, environment: EnvironmentConfig | None) -> float:
    name = "starts" if environment is None else "starts-env"
    project = WorkflowProject(
        name, "graphs:five", root=common.HERE, description=mark, environment=environment
    )
    began = time.monotonic()
    stack.bench.register_project(project)
    return time.monotonic() - began
