"""A real app that nobody wrote for us: a shop on Django, natively and through the daemon."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import ROOT, Daemon
from tests.support.directories import short_directory
from tests.support.servers import CeleryWorker

# Three workers import Django at once.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SHOP = "tests.support.djangoshop"
QUEUES = ("celery", "media", "bulk")


class Shop:
    """The shop with its broker, database, workers and daemon.

    Args:
        has_redis_results: Results are kept in Redis instead of Django's database.
    """

    def __init__(self, directory: Path, exits: ExitStack, *, has_redis_results: bool = False, database: str = "") -> None:
        self.directory = directory
        self.server = exits.enter_context(EmbeddedServer(directory))
        self.environment: Mapping[str, str] = {
            "DYRYGENTD_TEST_BROKER": self.server.url,
            "DYRYGENTD_TEST_DJANGO_DATABASE": database or str(directory / "shop.sqlite3"),
            **({"DYRYGENTD_TEST_RESULTS": self.server.url} if has_redis_results else {}),
        }
        self.run("-m", SHOP, "migrate")
        workers = [
            CeleryWorker(
                self.server.url,
                log_directory=directory,
                queues=[queue],
                app=SHOP,
                environment=self.environment,
            )
            for queue in QUEUES
        ]
        for worker in workers:
            exits.callback(worker.stop)
            worker.launch()
        for worker in workers:
            worker.wait_ready()

    def run(self, *arguments: str) -> str:
        """Run Python as the shop's own programs run, and return what it prints."""
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=self.directory, capture_output=True, text=True, timeout=100
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def daemon(self, *flags: str) -> Daemon:
        """Prepare a daemon; it is not started."""
        return Daemon([*flags], directory=self.directory, environment=self.environment)


@contextmanager
def _open_shop(**options: Any) -> Iterator[Shop]:
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        yield Shop(directory, exits, **options)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """The shop, shared by the module."""
    with _open_shop() as shop:
        yield shop


@pytest.fixture(scope="module")
def native(shop: Shop) -> Any:
    """What becomes of the shop's canvases without us."""
    return json.loads(shop.run("-m", SHOP, "run", "native"))


def test_app_is_loaded_as_a_worker_loads_it(shop: Shop, native: Any) -> None:
    """With its app the daemon puts each task where the shop's own code puts it, with the same priorities, limits and values."""
    with shop.daemon("--app", SHOP) as daemon:
        ours = json.loads(shop.run("-m", SHOP, "run", str(daemon.socket_path)))
        assert "has 8 tasks" in daemon.log()
    assert ours == native
    assert native["tenants"]["value"] == repr([["acme"] * 3] * 2)
    assert {queue for canvas in native.values() for _, _, queue, _, _ in canvas["calls"]} == set(QUEUES)


_CTL = ("-c", "from dyrygentd.cli import main; main()")


@pytest.mark.long
def test_command_line_loads_the_app_first(shop: Shop) -> None:
    """Modules with models can be imported, and files get the classes' and routes' options, when the app is named."""
    document = json.loads(shop.run(*_CTL, "submit", f"{SHOP}.canvases:few", "--app", SHOP, "--dry-run"))
    assert [node["task"] for node in document["nodes"]] == ["orders.place", "orders.reserve", "orders.price"]
    (shop.directory / "flow.json").write_text(
        json.dumps(
            {
                "parameters": {"item": "book"},
                "nodes": [
                    {"name": "pictured", "task": "media.thumbnail", "args": ["${item}", 1]},
                    {"name": "priced", "task": "orders.price", "args": [{"count": 1}], "options": {"priority": 1}},
                    {"name": "mine", "task": "orders.whose"},
                ],
            }
        )
    )
    document = json.loads(shop.run(*_CTL, "submit", "flow.json", "--app", SHOP, "--dry-run"))
    pictured, priced, mine = (node.get("options") for node in document["nodes"])
    assert pictured == {"queue": "media", "from_app": ["queue"]}
    assert priced == {"priority": 1, "time_limit": 33, "from_app": ["time_limit"]}
    assert not mine


@pytest.mark.long
def test_daemon_with_urls_alone_is_told_by_the_client(native: Any) -> None:
    """Without its app the daemon puts each task there too, because the client writes into the definition what the shop says."""
    with _open_shop(has_redis_results=True) as shop:
        broker = shop.server.url
        with shop.daemon("--broker", broker, "--result-backend", broker) as daemon:
            ours = json.loads(shop.run("-m", SHOP, "run", str(daemon.socket_path)))
    # A receiver of Celery's publish signal is called where a message is published, and this daemon has none.
    assert ours.pop("probed")["value"] == "'None'"
    assert ours == {name: native[name] for name in ours}


@pytest.mark.long
def test_results_that_only_the_app_can_read_are_refused(short_tmp: Path) -> None:
    """A daemon without the app would hand on another value than the worker has written: it is told before anything has run."""
    # Its other workers store in Redis, too, where the daemon looks.
    with _open_shop(has_redis_results=True) as shop:
        broker = shop.server.url
        results = {"DYRYGENTD_TEST_RESULTS": broker, "DYRYGENTD_TEST_RESULT_SERIALIZER": "yaml"}
        environment = {**shop.environment, **results}
        urls = ("--broker", broker, "--result-backend", broker)
        paths = ("--database", str(short_tmp / "state.db"), "--socket", str(short_tmp / "d.sock"))
        with CeleryWorker(broker, log_directory=short_tmp, queues=["yaml"], app=SHOP, environment=environment) as worker:
            command = [sys.executable, "-m", "dyrygentd", "check-config", "--online", "--json", *urls, *paths]
            told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            (found,) = [row for row in json.loads(told.stdout)["online"] if row["what"] == "workers"]
            assert not found["is_well"]
            assert f"worker '{worker.name}' writes results with 'yaml'" in found["words"]
        with Daemon(urls, directory=short_tmp, environment=environment) as daemon:
            submit = f"import django; django.setup(); from {SHOP}.canvases import few; from dyrygentd import Client; "
            submit += f"Client({str(daemon.socket_path)!r}).submit(few())"
            environment |= {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": f"{SHOP}.settings"}
            ran = subprocess.run(
                [sys.executable, "-c", submit], env={**os.environ, **environment}, capture_output=True, text=True
            )
            assert "node 'place-1': workers write results of 'orders.place' with serializer 'yaml'" in ran.stderr
