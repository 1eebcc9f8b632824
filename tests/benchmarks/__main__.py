"""``python -m tests.benchmarks [--quick] [--json FILE] [NAME ...]``: measure, and print a table."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks import (
    cpu_per_node,
    faces,
    growth,
    latency,
    letters,
    maps,
    memory,
    peers,
    replay,
    restart,
    stores,
    submit,
    takeover,
)
from tests.benchmarks.harness import Bench
from tests.benchmarks.report import Report

BENCHMARKS: dict[str, Callable[[Bench], None]] = {
    "submit": submit.run,
    "cpu_per_node": cpu_per_node.run,
    "latency": latency.run,
    "memory": memory.run,
    "restart": restart.run,
    "peers": peers.run,
    "growth": growth.run,
    "replay": replay.run,
    "faces": faces.run,
    "stores": stores.run,
    "takeover": takeover.run,
    "letters": letters.run,
    "maps": maps.run,
}


def measure(names: Sequence[str], *, quick: bool, say: Callable[[str], None]) -> Report:
    """Run benchmarks, all if none is named."""
    report = Report(quick)
    bench = Bench(report, quick, say)
    for name in names or BENCHMARKS:
        BENCHMARKS[name](bench)
    return report


def main() -> int:
    """Run what the command line names; fail only if a task was not executed once and in order."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure dyrygentd beside floors and peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="small sizes, one run each: whether it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark '{unknown[0]}', there are {', '.join(BENCHMARKS)}")
    report = measure(arguments.names, quick=arguments.quick, say=lambda text: print(text, file=sys.stderr, flush=True))
    if arguments.json:
        arguments.json.write_text(report.as_json() + "\n")
    print(report.as_table())
    return 0 if all(count.is_right for count in report.counts) else 1


if __name__ == "__main__":
    sys.exit(main())
