"""A room full of browsers and terminals looks at one large workflow that runs, and the daemon does its work."""

import asyncio
from pathlib import Path
from threading import Thread

import pytest

from dyrygentd.client.sync import Client
from dyrygentd.http.limits import HttpLimits
from dyrygentd.scheduler import SchedulerLimits
from dyrygentd.testing import FakeBroker
from tests.http.support import Daemon
from tests.http.test_faces import document
from tests.support.followers import Followers
from tests.support.servers import wait_until

PAGES, TERMINALS = 50, 20


TASKS = {f"app.step_{number}": lambda *_: None for number in range(8)} | {"add": lambda *_: None}


@pytest.mark.parametrize("size", [1_000, *(pytest.param(size, marks=pytest.mark.long) for size in (10_000, 100_000))])
def test_many_who_follow_cost_what_one_does(short_tmp: Path, size: int) -> None:
    """Each of seventy sees how it ends, health is answered all the way, and nobody has counted seventy times."""
    quick = SchedulerLimits(follow_interval_s=0.02)
    daemon = Daemon(short_tmp / "d.sock", limits=HttpLimits(nodes_max=200_000), scheduler_limits=quick)
    daemon.broker = FakeBroker(TASKS)
    with daemon, Client(daemon.path) as client:
        handle = client.submit(document(size))
        followers = Followers(handle.id, pages=PAGES, terminals=TERMINALS, port=daemon.tcp_port, socket=daemon.path)
        following = Thread(target=asyncio.run, args=[followers.run()])
        following.start()
        wait_until(followers.began.is_set, timeout_s=60, message="not all of them have seen it")
        before = daemon.call(daemon.scheduler.faces.statistics)
        assert before["fold_readers"] == PAGES + TERMINALS
        handle.release("head")
        healthy = 0
        while following.is_alive():
            healthy += daemon.ask("GET", "/healthz").status == 200
        following.join()
        assert healthy >= 10
        after = daemon.call(daemon.scheduler.faces.statistics)
        last = handle.fold()
    assert (last.state, after["fold_readers"]) == ("succeeded", 0)
    assert [(fold.state, fold.boxes) for fold in followers.folds] == [(last.state, last.boxes)] * (PAGES + TERMINALS)
    changes = followers.events - (PAGES + TERMINALS)
    assert after["folds"] - before["folds"] < changes / 10
    # All of it is sent once, and then what has changed of three boxes.
    assert followers.received_bytes < followers.events * 2_000
