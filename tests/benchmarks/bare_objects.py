"""The least that a waiting node can cost: its task id and its name, ``python -m tests.benchmarks.bare_objects N``."""

import json
import os
import sys
import uuid

from tests.benchmarks.harness import resident_bytes


def main() -> None:
    """Print by how many bytes ``N`` pairs of strings make a process grow."""
    n, pid = int(sys.argv[1]), os.getpid()
    before = resident_bytes(pid)
    ids = [str(uuid.uuid4()) for _ in range(n)]
    names = [f"noop-{number}" for number in range(n)]
    print(json.dumps({"bytes": resident_bytes(pid) - before, "objects": len(ids) + len(names)}))


if __name__ == "__main__":
    main()
