"""``python -m tests.simulation --seeds 1-10000 [--jobs 2]``: many runs, or the story of one (``--seed 36 --story``)."""

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from tests.simulation import children, runs, series, standby
from tests.simulation.runs import Outcome

#: Seeds handed to a process at a time.
_CHUNK = 20


def main() -> int:
    """Run what the command line says; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="1-1000", help="FIRST-LAST")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--story", action="store_true", help="tell what happened, also if all went well")
    parser.add_argument("--standby", action="store_true", help="two or three processes instead of one")
    parser.add_argument("--children", action="store_true", help="workflows whose nodes are workflows")
    parser.add_argument("--series", action="store_true", help="runs of one series")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    others = {"standby": standby.run, "children": children.run, "series": series.run}
    run = next((each for name, each in others.items() if getattr(arguments, name)), runs.run)
    if arguments.seed is not None:
        outcome = run(arguments.seed)
        if arguments.story or outcome.problem:
            print(outcome.story)
        print(f"seed {outcome.seed}: {outcome.problem or 'well'} {outcome.facts}")
        return int(bool(outcome.problem))
    first, _, last = arguments.seeds.partition("-")
    return _many(run, range(int(first), int(last or first) + 1), arguments.jobs)


def _many(run: Callable[[int], Outcome], seeds: range, jobs: int) -> int:
    worlds = {" --standby": standby.run, " --children": children.run, " --series": series.run}
    world = next((option for option, each in worlds.items() if each is run), "")
    begun, broken, facts = time.monotonic(), 0, Counter[str]()
    for number, outcome in enumerate(_outcomes(run, seeds, jobs), start=1):
        facts.update(outcome.facts)
        if outcome.problem:
            broken += 1
            again = f"python -m tests.simulation{world} --seed {outcome.seed} --story"
            print(f"seed {outcome.seed}: {outcome.problem}\n  again: {again}", flush=True)
        if number % 100 == 0 or number == len(seeds):
            rate = number / (time.monotonic() - begun)
            print(f"{number} of {len(seeds)} seeds, {broken} broken, {rate:.0f}/s", file=sys.stderr, flush=True)
    print(f"{len(seeds)} seeds, {broken} broken; {dict(facts)}")
    return int(bool(broken))


def _outcomes(run: Callable[[int], Outcome], seeds: range, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=_CHUNK)


if __name__ == "__main__":
    sys.exit(main())
