"""Hands definitions from a file to a daemon: ``python -m tests.benchmarks.submitter --socket PATH --bodies FILE --unfinished N``.

So many workflows are unfinished at one time at most, as if people and cron had handed them over in the course of months. Prints
``{"cpu_s"}`` when all have ended.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from dyrygentd import AsyncClient

_AT_ONCE = 4
_LOOK_EVERY = 50
_PAUSE_S = 0.02


async def submit(socket: str, bodies: Path, unfinished_max: int) -> dict[str, Any]:
    """Submit all, and wait until none is unfinished; return what is to be printed."""
    with bodies.open("rb") as file:
        async with AsyncClient(socket, timeout_s=300) as client:
            lines = enumerate(file)

            async def hand_over() -> None:
                for number, line in lines:
                    if number % _LOOK_EVERY == 0:
                        await _wait_for(client, unfinished_max)
                    await client.submit(line)

            await asyncio.gather(*[hand_over() for _ in range(_AT_ONCE)])
            await _wait_for(client, 1)
            counters = (await client.stats()).engine["counters"]
    # Of the daemon's whole life.
    ends = {end: counters[f"workflows_{end}"] for end in ("succeeded", "failed")}
    return {"cpu_s": time.process_time(), **ends}


async def _wait_for(client: AsyncClient, unfinished_max: int) -> None:
    while (await client.stats()).engine["workflows"] >= unfinished_max:  # noqa: ASYNC110 - it is another process that ends them
        await asyncio.sleep(_PAUSE_S)


def main() -> None:
    """Submit what the file holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--unfinished", type=int, required=True)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(submit(arguments.socket, arguments.bodies, arguments.unfinished))))


if __name__ == "__main__":
    main()
