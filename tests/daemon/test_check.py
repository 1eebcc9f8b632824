"""What `check-config --online` finds that a daemon would stumble over: an address, a database, workers that do not fit."""

import grp
import json
import os
import pwd
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from dyrygentd.daemon import check_workers
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.in_use import PortHolders, check_address, database_holder, has_members
from dyrygentd.errors import ConfigurationError
from dyrygentd.tasks.fleet import Fleet, Worker
from dyrygentd.transport.broadcast import url_of
from tests.support.daemon import ROOT, Daemon
from tests.support.forking import run_to_end
from tests.support.servers import CeleryWorker


def _check(directory: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    command = [sys.executable, "-m", "dyrygentd", "check-config", "--here", "--online", "--json", *arguments]
    environ = {**os.environ, "PYTHONPATH": f"{directory}:{ROOT}", **environment}
    done = run_to_end(command, working_directory=directory, environment=environ)
    assert "Traceback" not in done.stderr, done.stderr
    tried = {row["what"]: (row["is_well"], row["words"]) for row in json.loads(done.stdout)["online"]}
    return done.returncode, tried


def test_database_of_another_daemon(short_tmp: Path, redis_server: EmbeddedServer) -> None:
    """A second configuration with the same database is refused; the daemon's own is fine, and its address is its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    broker = ["--broker", redis_server.url]
    with Daemon([*broker, "--listen", address], directory=short_tmp) as daemon:
        paths = ["--database", str(daemon.database_path), "--listen", address]
        assert database_holder(daemon.database_path) == daemon.pid
        _, tried = _check(short_tmp, *broker, *paths, "--socket", str(daemon.socket_path))
        is_well, words = tried["database"]
        assert is_well
        assert f"; process {daemon.pid} (" in words
        assert words.endswith("), which runs, has it")
        assert tried["listen"][0], tried["listen"]
        assert tried["listen"][1].endswith(f"has '{address}'")
        status, tried = _check(short_tmp, *broker, *paths, "--socket", str(short_tmp / "second.sock"))
        is_well, words = tried["database"]
        assert (status, is_well) == (1, False)
        assert f"is in use by process {daemon.pid} (" in words
        assert "and nobody listens on its socket; stop that daemon" in words
    assert database_holder(daemon.database_path) is None


def test_address_of_somebody_else() -> None:
    """It is said who has it, as far as this user may see, and that another port is to be chosen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=rf"process {os.getpid()} \(.*\) has it") as caught:
            check_address(address, PortHolders.look(), None)
        assert caught.value.next_step == "choose another port for `listen`"
        with pytest.raises(ConfigurationError, match="`sudo ss -ltnp"):
            check_address(address, PortHolders({}), 17)
        assert "the daemon that runs" in check_address(address, PortHolders.look(), os.getpid())
    assert check_address(address, PortHolders({}), None) == f"'{address}' is free"
    with pytest.raises(ConfigurationError, match="is no HOST:PORT"):
        check_address("here", PortHolders({}), None)


def test_group_without_members() -> None:
    """A right that nobody has is a slip, which the name alone does not show."""
    assert has_members(grp.getgrgid(pwd.getpwuid(os.getuid()).pw_gid).gr_name)
    assert has_members(str(pwd.getpwuid(os.getuid()).pw_gid))
    assert not has_members("nobodys-group")


_APP = """
import os
from celery import Celery
import tests.support.tasks
URL = os.environ["CHECK_URL"]
app = Celery("checked", broker=URL, backend=URL + os.environ.get("CHECK_DATABASE", ""), set_as_current=False)
app.conf.update(accept_content=os.environ.get("CHECK_ACCEPT", "json").split(), task_routes={"report.mail": "reprots"})

@app.task(name="report.mail", shared=False)
def mail(): pass
"""


@pytest.mark.long
@pytest.mark.integration
def test_workers_that_do_not_fit(short_tmp: Path, redis_server: EmbeddedServer, make_worker: Callable[..., CeleryWorker]) -> None:
    """Who stores results elsewhere is an error; who refuses JSON is silent, and counted; a misspelt queue is named."""
    (short_tmp / "checked.py").write_text(_APP)
    environment = {"CHECK_URL": redis_server.url, "PYTHONPATH": f"{short_tmp}:{ROOT}"}
    fits = make_worker(app="checked:app", environment=environment, queues=["reports"])
    app = ["--app", "checked:app", "--database", str(short_tmp / "state.db"), "--socket", str(short_tmp / "d.sock")]
    status, tried = _check(short_tmp, *app, CHECK_URL=redis_server.url)
    assert status == 0, tried
    assert tried["workers"] == (True, f"1 answered: {fits.name}")
    assert (
        f"nobody who answered consumes 'reprots', where 'report.mail' goes: is 'reports' meant, which {fits.name}"
        in tried["routes"][1]
    )
    refuses = make_worker(app="checked:app", environment={**environment, "CHECK_ACCEPT": "yaml"})
    status, tried = _check(short_tmp, *app, CHECK_URL=redis_server.url)
    assert tried["workers"] == (True, f"1 of 2 answered: {fits.name}")
    _, tried = _check(short_tmp, *app, CHECK_URL=redis_server.url, CHECK_ACCEPT="yaml")
    assert "workers accept yaml, and tasks are sent as 'json'" in tried["accepted content"][1]
    assert not tried["accepted content"][0]
    refuses.kill()
    other = make_worker(app="checked:app", environment={**environment, "CHECK_DATABASE": "?virtual_host=3"})
    status, tried = _check(short_tmp, *app, CHECK_URL=redis_server.url)
    assert (status, tried["workers"][0]) == (1, False)
    assert f"worker '{other.name}' stores results in '" in tried["workers"][1]
    assert "it would see no result of that worker" in tried["workers"][1]


def test_silent_fleet() -> None:
    """Workers that got the question and did not answer are not the same as none."""
    app = Celery("c", broker="memory://", backend="redis://store/2", set_as_current=False)
    assert check_workers.workers(Fleet(), app, has_tasks=True) == "none answered, so nothing is known of them"
    assert check_workers.workers(Fleet(reached=2), app, has_tasks=True).startswith("2 of 2 did not answer: they refuse JSON")
    worker = Worker("w1@vm", settings={"result_backend": "redis://10.0.0.7/2", "result_serializer": "json"})
    words = check_workers.workers(Fleet((worker,)), app, has_tasks=True)
    assert words.endswith("'w1@vm' stores results in 'redis://10.0.0.7/2': is that the same server by another name?")


def _keep(app: Celery, *names: str) -> None:
    """Leave an app these tasks: those that other tests of the process share with every app are not what is looked at."""
    app.finalize()
    for name in [name for name in app.tasks if not name.startswith("celery.") and name not in names]:
        del app.tasks[name]


def test_routers_are_the_users_code() -> None:
    """One that wants arguments is told; a queue or a router that does not exist is an error."""
    app = Celery("c", broker="memory://", backend="redis://store/2", set_as_current=False)

    @app.task(name="shop.pay", shared=False)
    def pay(amount: int) -> int:
        return amount

    def route(name: str, args: tuple[int, ...], kwargs: object, options: object, **_: object) -> dict[str, str]:
        if name == "shop.list":
            return {"queue": "lists"}
        return {"queue": "dear" if args[0] > 100 else "cheap"}

    app.conf.task_routes = (route,)
    _keep(app, "shop.pay")
    # Without arguments it cannot tell, which is no fault.
    assert "cannot be routed without their arguments, such as 'shop.pay': IndexError" in check_workers.routes(app, Fleet())

    @app.task(name="shop.list", shared=False)
    def listed() -> None:
        pass

    assert check_workers.routes(app, Fleet()).startswith("tasks go into lists; ")
    broken = Celery("b", broker="memory://", backend="redis://store/2", set_as_current=False)
    broken.conf.update(task_create_missing_queues=False, task_routes={"shop.pay": "nowhere"})

    @broken.task(name="shop.pay", shared=False)
    def paid() -> None:
        pass

    _keep(broken, "shop.pay")
    with pytest.raises(ConfigurationError, match=r"'shop\.pay' cannot be routed: QueueNotFound"):
        check_workers.routes(broken, Fleet())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:@host:6379/0", "redis://host:6379/0"),
        ("redis://user@host:6379/0", "redis://user@host:6379/0"),
        ("redis://:pw@host:6379/0", "redis://:**@host:6379/0"),
        ("redis+socket:///tmp/x.sock", "redis+socket:///tmp/x.sock"),
    ],
)
def test_no_asterisks_without_a_password(url: str, shown: str) -> None:
    """Whoever reads them looks for a password that is not there."""
    app = Celery("c", broker=url, set_as_current=False)
    assert url_of(app.connection_for_write()) == shown
