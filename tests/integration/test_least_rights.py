"""A Redis user that has the least rights which the guide names: everything works, and a right that is missing is told."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from dyrygentd import Workflow
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 40
#: What the guide to brokers names, and besides what the tests themselves write down.
_RIGHTS = (
    (Path(__file__).parents[2] / "dyrygentd/transport/README.md").read_text().partition("ACL SETUSER shop ")[2].partition("\n")[0]
)


@pytest.fixture
def boss(quiet_site: Site) -> Iterator[redis.Redis]:
    """A user who may do everything; whoever does not log in may do no more than the guide says."""
    with records(quiet_site.server.url) as orders:
        orders.execute_command("ACL", "SETUSER", "boss", "on", ">boss", "+@all", "~*", "&*")
    url = quiet_site.server.url.replace("redis+socket://", "unix://boss:boss@")
    with redis.Redis.from_url(url, decode_responses=True) as boss:
        rights = [word for word in _RIGHTS.split() if word not in ("on", ">PASSWORD")]
        assert rights
        boss.execute_command("ACL", "SETUSER", "default", "on", "nopass", "resetkeys", "~test:*", *rights)
        yield boss
        boss.execute_command("ACL", "SETUSER", "default", "on", "nopass", "+@all", "~*", "&*")


def _run(site: Site, exits: ExitStack) -> Daemon:
    url = site.server.url
    environment = {
        "DYRYGENTD_TEST_BROKER": url,
        "DYRYGENTD_TEST_BACKEND": url,
        "DYRYGENTD_TEST_RECORDS": url,
        "DYRYGENTD_TEST_KEYPREFIX": "shop:",
        "DYRYGENTD_TEST_BROKER_OPTIONS": json.dumps({"global_keyprefix": "shop:"}),
    }
    worker = CeleryWorker(url, log_directory=site.directory, keyprefix="shop:", arguments=(), environment=environment)
    exits.enter_context(worker)
    flags = ["--app", "tests.support.tasks", "--lost-after-s", "1", "--lost-confirm-s", "1"]
    directory = site.directory / "daemon"
    directory.mkdir()
    return exits.enter_context(Daemon(flags, directory=directory, environment=environment))


@pytest.mark.long
def test_least_rights_are_enough(quiet_site: Site, boss: redis.Redis) -> None:
    """Tasks run, are looked for while they run, and end; every key and every channel is under the prefix."""
    with ExitStack() as exits:
        daemon = _run(quiet_site, exits)
        client = exits.enter_context(daemon.client())
        workflow = Workflow("least")
        workflow.add(tasks.wait_for.si("gate"), name="slow")
        handle = client.submit(workflow)
        quiet_site.executions.wait_started([str(handle.node("slow").task_id)])
        wait_until(lambda: client.stats().lost["looks"] >= 2, timeout_s=_WAIT_S, message=daemon.log)
        assert not client.health().problems
        channels = boss.execute_command("PUBSUB", "CHANNELS", "*")
        assert any("dyrygentd:heartbeat" in channel for channel in channels)
        assert not [name for name in [*channels, *boss.keys("*")] if not name.startswith(("shop:", "test:"))]
        quiet_site.executions.release("gate", value="done")
        assert handle.wait(timeout_s=_WAIT_S).result == "done"
        assert "NOPERM" not in daemon.log()


@pytest.mark.long
def test_refused_channels_do_not_stop_the_reading(quiet_site: Site, boss: redis.Redis) -> None:
    """Whoever forbids a channel of ours gets results later, by reading the keys, and is told why; allowing them mends it."""
    # All that Celery needs, and not ours.
    celery = ("&shop:/*", "&shop:/0.celery.pidbox", "&shop:/0.celeryev/worker.*", "&shop:celery-task-meta-*")
    boss.execute_command("ACL", "SETUSER", "default", "resetchannels", *celery)
    with ExitStack() as exits:
        daemon = _run(quiet_site, exits)
        client = exits.enter_context(daemon.client())
        workflow = Workflow("forbidden")
        first = workflow.add(tasks.echo.si(1), name="first")
        workflow.add(tasks.echo.si(2), name="second", after=[first])
        assert client.submit(workflow).wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
        assert client.stats().watcher["swept"] == 2
        [problem] = client.health().problems
        assert "results cannot be received" in problem
        assert "channels (`&…`)" in problem
        assert "can be received again" not in daemon.log()
        boss.execute_command("ACL", "SETUSER", "default", "&shop:*")
        handle = client.submit(tasks.wait_for.si("later"))
        wait_until(lambda: not client.health().problems, timeout_s=_WAIT_S, message=lambda: str(client.health()))
        quiet_site.executions.release("later")
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
