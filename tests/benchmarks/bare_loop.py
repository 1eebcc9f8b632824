"""The least that can turn a result into the next message: a floor for latency.

``python -m tests.benchmarks.bare_loop --socket PATH --chains K --steps N`` hears of each result by pub/sub and pushes the next
message of its chain. No state, no disk, no check: one loop, one subscription, redis-py.
"""

import argparse
import json

import redis.asyncio
import uvloop

_CHANNEL = b"celery-task-meta-"


def task_id(chain: int, step: int) -> str:
    """Return the id of a step."""
    return f"{chain}:{step}"


async def run(path: str, *, chains: int, steps: int, queue: str) -> None:
    """Run all chains to their ends."""
    client = redis.asyncio.Redis(unix_socket_path=path)
    async with client, client.pubsub() as pubsub:
        await pubsub.psubscribe(_CHANNEL + b"*")
        await pubsub.get_message(timeout=None)
        for chain in range(chains):
            await client.lpush(queue, _message(chain, 0))
        unfinished = chains
        while unfinished:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            json.loads(message["data"])
            chain, step = map(int, message["channel"].removeprefix(_CHANNEL).split(b":"))
            if step + 1 < steps:
                await client.lpush(queue, _message(chain, step + 1))
            else:
                unfinished -= 1


def _message(chain: int, step: int) -> str:
    return json.dumps({"headers": {"id": task_id(chain, step)}})


def main() -> None:
    """Run until every chain has ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--chains", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--queue", default="celery")
    arguments = parser.parse_args()
    uvloop.run(run(arguments.socket, chains=arguments.chains, steps=arguments.steps, queue=arguments.queue))
    print(json.dumps({}))


if __name__ == "__main__":
    main()
