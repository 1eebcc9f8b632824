"""``python -m tests.faults [--runs 200] [--seed 1] [--jobs 2]``: real processes, real faults, one run for each seed."""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.faults.causes import CAUSES, chosen_faults
from tests.faults.runs import Run, Verdict
from tests.faults.world import World, interrupt_on_signals
from tests.support.directories import short_directory

#: Servers and workers are replaced after so many runs; their logs and the append-only file grow.
_RUNS_OF_A_WORLD = 20

#: Errors of a run that are printed, beside its logs.
_SHOWN_MAX = 8


def run_seed(
    world: World,
    seed: int,
    *,
    faults: Sequence[str] | None = None,
    workflows: int = 3,
    size: int = 60,
    waits_for_crashes: bool = False,
) -> Verdict:
    """Make the run of a seed.

    Args:
        faults: Instead of those of the seed.
        size: Most tasks of a workflow; it has half as many at least.
        waits_for_crashes: The next fault comes when the daemon has crashed at its point.
    """
    world.empty()
    faults = chosen_faults(seed) if faults is None else faults
    with Run(world, seed, faults=faults, workflows=workflows, size=size, waits_for_crashes=waits_for_crashes) as run:
        return run.go(CAUSES)


def run_seeds(seeds: Sequence[int], *, faults: Sequence[str] | None = None) -> Iterator[Verdict]:
    """Make the runs of these seeds, one after the other."""
    for begin in range(0, len(seeds), _RUNS_OF_A_WORLD):
        with short_directory() as directory, World(directory) as world:
            for seed in seeds[begin : begin + _RUNS_OF_A_WORLD]:
                yield run_seed(world, seed, faults=faults)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--faults", help=f"these instead of the seed's, with commas: {', '.join(CAUSES)}, crash@POINT:N")
    options = parser.parse_args(arguments)
    interrupt_on_signals()
    if options.jobs > 1:
        return _share(options.runs, options.seed, options.jobs, options.faults)
    faults = options.faults.split(",") if options.faults else None
    verdicts: list[Verdict] = []
    begun = time.monotonic()
    try:
        for verdict in run_seeds(range(options.seed, options.seed + options.runs), faults=faults):
            verdicts.append(verdict)
            print(verdict.line(), flush=True)
            if not verdict.is_well:
                given = f" --faults '{options.faults}'" if options.faults else ""
                print(f"  again: python -m tests.faults --runs 1 --seed {verdict.seed}{given}", flush=True)
                for error in verdict.errors[:_SHOWN_MAX] + verdict.errors[_SHOWN_MAX:][-3:]:
                    print("  " + error.replace("\n", "\n  "), flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(_summary(verdicts, time.monotonic() - begun))
    return 0 if all(verdict.is_well for verdict in verdicts) else 1


def _summary(verdicts: Sequence[Verdict], seconds: float) -> str:
    failed = [verdict.seed for verdict in verdicts if not verdict.is_well]
    kinds = Counter(fault.partition(":")[0] for verdict in verdicts for fault in verdict.faults)
    lines = ["", *(f"{count:>5}  {name}" for name, count in sorted(kinds.items()))]
    total = {word: sum(getattr(verdict, word) for verdict in verdicts) for word in _TOTALS}
    lines.append("; ".join(f"{number} {word.replace('_', ' ')}" for word, number in total.items()))
    lines.append(f"{len(verdicts)} runs in {seconds:.0f} s, {len(failed)} failed{': seeds ' + str(failed) if failed else ''}")
    return "\n".join(lines)


_TOTALS = ("tasks", "pushes", "executions", "restored", "lost", "retried", "hanging", "daemon_ends", "worker_ends")


def _share(runs: int, seed: int, jobs: int, faults: str | None) -> int:
    """Give each process a part of the seeds, and show what they say as it comes."""
    share, rest = divmod(runs, jobs)
    begin, children = seed, []
    for job in range(jobs):
        count = share + (job < rest)
        if not count:
            continue
        command = [sys.executable, "-m", "tests.faults", "--runs", str(count), "--seed", str(begin)]
        command += ["--faults", faults] if faults else []
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        begin += count
    lines: list[str] = []
    readers = [threading.Thread(target=_copy, args=(child, lines)) for child in children]
    for reader in readers:
        reader.start()
    with _ended(children):
        for reader in readers:
            reader.join()
    runs_seen = [line for line in lines if line.startswith("seed ")]
    failed = [int(line.split()[1]) for line in runs_seen if "  FAILED  " in line]
    total: Counter[str] = Counter()
    for line in lines:
        if _TOTAL_LINE.fullmatch(line.rstrip()):
            total.update({name: int(number) for number, _, name in (part.partition(" ") for part in line.rstrip().split("; "))})
    print("\nall together: " + "; ".join(f"{number} {name}" for name, number in total.items()))
    print(f"{len(runs_seen)} runs, {len(failed)} failed{': seeds ' + str(failed) if failed else ''}")
    return max(child.wait() for child in children)


_TOTAL_LINE = re.compile(r"\d+ tasks; .*")


def _copy(child: "subprocess.Popen[str]", lines: list[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line)
        print(line, end="", flush=True)


@contextmanager
def _ended(children: Sequence["subprocess.Popen[str]"]) -> Iterator[None]:
    """End the processes if we are interrupted; they clean up after themselves."""
    try:
        yield
    finally:
        for child in children:
            if child.poll() is None:
                os.kill(child.pid, signal.SIGTERM)
        for child in children:
            child.wait(60)


if __name__ == "__main__":
    sys.exit(main())
