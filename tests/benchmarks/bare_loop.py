"""The least that can turn a result into the next message: a floor for latency.

``python -m tests.benchmarks.bare_loop --socket PATH --chains K --steps N`` hears of each result by pub/sub and pushes the next
message of its chain. No state, no disk, no check: one loop, one subscription, redis-py. With ``--celery`` the messages are those
that Celery's workers execute, made of one that Celery has sent. With ``--database`` each result is on disk before its successor
is sent, by a commit of SQLite with FULL durability: what nobody who promises that can do without. Prints ``{"seconds"}``.
"""

import argparse
import json
import sqlite3
import time
from collections.abc import Callable

import redis.asyncio
import uvloop

_CHANNEL = b"celery-task-meta-"
_MARK = "mark-of-the-id"


def task_id(chain: int, step: int) -> str:
    """Return the id of a step."""
    return f"{chain}:{step}"


async def run(path: str, *, chains: int, steps: int, queue: str, template: str, keep: Callable[[str], None]) -> float:
    """Run all chains to their ends; return the seconds it took."""
    client = redis.asyncio.Redis(unix_socket_path=path)
    begun = time.monotonic()

    def message_of(chain: int, step: int) -> str:
        return template.replace(_MARK, task_id(chain, step))

    async with client, client.pubsub() as pubsub:
        await pubsub.psubscribe(_CHANNEL + b"*")
        await pubsub.get_message(timeout=None)
        for chain in range(chains):
            await client.lpush(queue, message_of(chain, 0))
        unfinished = chains
        while unfinished:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            json.loads(message["data"])
            chain, step = map(int, message["channel"].removeprefix(_CHANNEL).split(b":"))
            keep(task_id(chain, step))
            if step + 1 < steps:
                await client.lpush(queue, message_of(chain, step + 1))
            else:
                unfinished -= 1
    return time.monotonic() - begun


def _keeper(database: str) -> Callable[[str], None]:
    """Return what puts the id of a task on disk."""
    connection = sqlite3.connect(database, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE IF NOT EXISTS ended (id TEXT, at REAL)")

    def keep(ended: str) -> None:
        connection.execute("INSERT INTO ended VALUES (?, ?)", (ended, time.time()))

    return keep


def _of_celery(path: str) -> str:
    """Return a message that Celery has sent for a task, with a mark in the place of its id."""
    from tests.support.tasks import noop

    noop.apply_async(task_id=_MARK, queue="sample", ignore_result=True)
    with redis.Redis(unix_socket_path=path, decode_responses=True) as client:
        message = json.loads(str(client.rpop("sample")))
    message["headers"]["ignore_result"] = False
    # Workers keep what they have by its tag, and a second message with the same one would end their counting.
    message["properties"]["delivery_tag"] = _MARK
    return json.dumps(message)


def main() -> None:
    """Run until every chain has ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--chains", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--queue", default="celery")
    parser.add_argument("--celery", action="store_true")
    parser.add_argument("--database")
    given = parser.parse_args()
    template = _of_celery(given.socket) if given.celery else json.dumps({"headers": {"id": _MARK}})
    keep = _keeper(given.database) if given.database else lambda _: None
    seconds = uvloop.run(
        run(given.socket, chains=given.chains, steps=given.steps, queue=given.queue, template=template, keep=keep)
    )
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
