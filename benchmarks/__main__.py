"""`python -m benchmarks [names] [--quick]`: measures, prints, writes `benchmarks/results/*.json`.

Exits with 1 when a target is missed.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from benchmarks import (
    collection,
    common,
    control,
    environments,
    files,
    growth,
    parking,
    scale,
    sharing,
    starts,
    startup,
    throughput,
    tuning,
    waiting,
)

Measure = Callable[[argparse.Namespace], tuple[dict[str, Any], list[common.Target]]]


MEASURES: dict[str, Measure] = {
    "throughput": lambda options: throughput.run(
        repeats=options.repeats or (2 if options.quick else 5),
        executions=options.executions or (200 if options.quick else 400),
        processes=os.cpu_count() or 1,
        bench=not options.no_stack,
    ),
    "waiting": lambda options: waiting.run(repeats=1 if options.quick else 3),
    "sharing": lambda options: sharing.run(repeats=options.repeats or (1 if options.quick else 3)),
    "scale": lambda options: scale.run(sizes=(1_000, 4_000) if options.quick else scale.SIZES),
    "tuning": lambda options: tuning.run(
        trials=100 if options.quick else 200, repeats=1 if options.quick else 3
    ),
    "startup": lambda options: startup.run(repeats=1 if options.quick else 3),
    "files": lambda options: files.run(
        repeats=options.repeats or (3 if options.quick else 9),
        many=20_000 if options.quick else 100_000,
    ),
    "control": lambda options: control.run(
        repeats=options.repeats or (10 if options.quick else 40)
    ),
    "parking": lambda options: parking.run(repeats=options.repeats or (5 if options.quick else 20)),
    "environments": lambda options: environments.run(
        repeats=options.repeats or (1 if options.quick else 3)
    ),
    "starts": lambda options: starts.run(repeats=options.repeats or (3 if options.quick else 7)),
    "collection": lambda options: collection.run(objects=100_000 if options.quick else 1_000_000),
    "growth": lambda options: growth.run(executions=2500 if options.quick else 5000),
}


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MEASURES, []], help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repeats")
    parser.add_argument("--repeats", type=int, help="turns of each contender (5; quick: 2)")
    parser.add_argument("--executions", type=int, help="of each process a turn (400; quick: 200)")
    parser.add_argument("--no-stack", action="store_true", help="checkpointing alone, without Ray")
    return parser.parse_args(arguments)


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit("terminated")  # so that the stack and Postgres are taken down


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _end)
    met = True
    for name in options.names or MEASURES:
        print(f"{name} (load {os.getloadavg()[0]:.1f})", flush=True)
        began = time.monotonic()
        result, targets = MEASURES[name](options)
        result["took_s"] = round(time.monotonic() - began, 1)
        met = common.report(name, result, targets) and met
    return int(not met)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
