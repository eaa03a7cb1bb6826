"""Ray Tune and the bench on the same trivial trials: a graph of five nodes that do nothing.

Tune starts an actor for each trial, or reuses them where the trainable is a class that can be reset, and
keeps results as files; the bench keeps a checkpoint of every step and every score in Postgres as well.
Both may use all processors of the machine.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks import common
from benchmarks.graphs import five

LEAST: Final = 1.0


def run(*, trials: int = 200, repeats: int = 3) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    rates: dict[str, list[float]] = {common.BENCH: [], "Ray Tune": [], "Ray Tune, reused": []}
    for _ in range(repeats):
        with common.stack() as stack:
            stack.register("five", "graphs:five")
            stack.warm("five", os.cpu_count() or 1)
            rates[common.BENCH].append(trials / stack.batch("five", trials))
        for name, reuse in (("Ray Tune", "no"), ("Ray Tune, reused", "yes")):
            found = subprocess.run(
                [sys.executable, "-m", "benchmarks.tuning", str(trials), reuse],
                check=True,
                capture_output=True,
                text=True,
            )
            rates[name].append(trials / json.loads(found.stdout.splitlines()[-1]))
    common.table(
        ("", "trials/s", "all repeats"),
        [
            (name, f"{common.median(found):.1f}", " ".join(f"{rate:.1f}" for rate in found))
            for name, found in rates.items()
        ],
    )
    best = max(common.median(rates[name]) for name in rates if name != common.BENCH)
    ratio = common.median(rates[common.BENCH]) / best
    return {"trials_s": rates}, [
        common.Target("trials/s over Ray Tune", ratio, LEAST, at_least=True, unit="x")
    ]


def tuned(trials: int, *, reuse: bool) -> float:
    """Seconds in which Tune runs the trials, without the start of Ray."""
    import ray  # noqa: PLC0415  in the process of its own that this runs in
    from ray import tune  # noqa: PLC0415

    class Trial(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self._graph, self._given = five().compile(), config["x"]

        def step(self) -> dict[str, Any]:
            values = asyncio.run(self._graph.ainvoke({"x": self._given}))
            return {"score": float(values["x"] == self._given), "done": True}

        def reset_config(self, config: dict[str, Any]) -> bool:
            self._given = config["x"]
            return True

    ray.init(log_to_driver=False, include_dashboard=False)
    with TemporaryDirectory(prefix="wtb-bench-tune-") as directory:
        tuner = tune.Tuner(
            Trial,
            param_space={"x": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse),
            run_config=tune.RunConfig(
                storage_path=directory,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        began = time.monotonic()
        results = tuner.fit()
        took = time.monotonic() - began
    assert [result.metrics["score"] for result in results] == [1.0] * trials
    ray.shutdown()
    return took


if __name__ == "__main__":
    print(json.dumps(tuned(int(sys.argv[1]), reuse=sys.argv[2] == "yes")))
