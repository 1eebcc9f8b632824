"""Celery without us, in a process of its own: ``python -m tests.benchmarks.celery_peer publish|group|chain N``.

Prints ``{"cpu_s", "apply_s", "began", "ended"}``: processor time of this process and wall time of handing the work over, and
moments on the monotonic clock, which all processes of a machine share.
"""

import json
import sys
import time

from celery import chain, group

from tests.support.tasks import app, noop


def main() -> None:
    """Hand ``N`` tasks to Celery; of a chain, also await the end."""
    what, n = sys.argv[1], int(sys.argv[2])
    app.finalize()
    # The first message opens connections and imports what it needs; it goes where nobody looks.
    noop.apply_async(queue="warm-up").forget()
    tasks = [noop.si() for _ in range(n)] if what != "publish" else []
    cpu_begun_s, began = time.process_time(), time.monotonic()
    if what == "publish":
        for _ in range(n):
            noop.apply_async()
    elif what == "group":
        group(tasks).apply_async()
    else:
        result = chain(tasks).apply_async()
    cpu_s, applied = time.process_time() - cpu_begun_s, time.monotonic()
    if what == "chain":
        result.get(timeout=300)
    print(json.dumps({"cpu_s": cpu_s, "apply_s": applied - began, "began": began, "ended": time.monotonic()}))


if __name__ == "__main__":
    main()
