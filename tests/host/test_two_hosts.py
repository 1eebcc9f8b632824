"""The guide for two hosts, word by word, on three bare hosts: upgrade without a gap, a stop, a lost host, and mistakes.

PostgreSQL (with TLS, and the rights of the guide), Redis and workers are on further hosts of the same network, see `tests.hosts`.
It is asked for as the life of a service is, see `tests.host.test_host`.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.host.conftest import Bare, remove
from tests.host.machine import SOURCE, BareHost, Unable
from tests.host.test_host import GUIDE
from tests.host.test_host import commands as commands_of
from tests.hosts.network import Host, skip_without_hosts
from tests.hosts.world import World
from tests.integration.test_two_hosts import commands, follow
from tests.support.directories import short_directory
from tests.support.postgres import PostgresServer, programs_or_skip
from tests.support.servers import wait_until

pytestmark = [pytest.mark.timeout(1500)]

#: What is upgraded: a commit that has leases.
_OLDER: Final = "9998d57"
_NAMES: Final = ("ops1", "ops2", "shop")
_WAIT_S: Final = 120
_PORT: Final = 5432


class _Postgres(PostgresServer):
    """A PostgreSQL at the address of a host, which lets in whom the guide's line names, and has a certificate."""

    def __init__(self, host: Host, directory: Path, clients: list[str]) -> None:
        tls = {"ssl": "on", "ssl_cert_file": str(directory / "db.crt"), "ssl_key_file": str(directory / "db.key")}
        super().__init__(directory, listen_addresses=host.address, **tls)
        self.port = _PORT
        self._host, self._clients = host, clients
        names = ["-subj", "/CN=db.example", "-addext", "subjectAltName=DNS:db.example"]
        files = ["-keyout", str(directory / "db.key"), "-out", str(directory / "db.crt")]
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
        subprocess.run(made, check=True, capture_output=True, timeout=60)
        shutil.chown(directory / "db.key", "nobody")

    def start(self) -> None:
        """Start it there, and wait until it answers."""
        with self._host.inside():
            super().start()

    def _make_data(self) -> None:
        super()._make_data()
        found = re.search(r"`(hostssl ops dyrygentd) ops1\.example (.*?)`", GUIDE)
        assert found is not None
        rules = [f"{found[1]} {client}/32 {found[2]}" for client in self._clients]
        (self._data / "pg_hba.conf").write_text(
            "\n".join(["local all all trust", *rules, ""]).replace("ssl ops ", "ssl ops,copy ")
        )


@dataclass(slots=True)
class _Ground:
    """Three hosts with the service, and what they need."""

    world: World
    postgres: _Postgres
    hosts: dict[str, BareHost]
    networks: dict[str, Host]

    def status(self, name: str) -> str:
        """Return what `systemctl status` shows of the service."""
        return self.hosts[name].run("systemctl show -p StatusText --value dyrygentd").strip()

    def role(self, name: str) -> str:
        """Return what it says that it is; empty if it says nothing."""
        found = re.search(r"leads in term|answered by a (standby|gateway)", self.status(name))
        return "" if found is None else found[1] or "leader"

    def wait_role(self, name: str, role: str) -> None:
        """Wait until it is that."""
        wait_until(lambda: self.role(name) == role, timeout_s=_WAIT_S, message=lambda: self.log(name))

    def pair(self) -> tuple[str, str]:
        """Wait until one of the two leads and the other stands by; return both."""
        found: list[str] = []

        def look() -> bool:
            roles = {self.role(name): name for name in _NAMES[:2]}
            found[:] = [roles.get("leader", ""), roles.get("standby", "")]
            return all(found)

        wait_until(look, timeout_s=_WAIT_S, message=lambda: "\n".join(map(self.log, _NAMES[:2])))
        return found[0], found[1]

    def log(self, name: str) -> str:
        """Return the end of a service's log."""
        return f"--- {name}: {self.status(name)}\n" + self.hosts[name].run("journalctl --no-pager -o cat -u dyrygentd -n 40")

    def measure(self, what: str, name: str, deed: Callable[[], object]) -> None:
        """Print how long it takes from a deed on until a host leads."""
        begun = time.monotonic()
        deed()
        self.wait_role(name, "leader")
        print(f"{what}: '{name}' leads after {time.monotonic() - begun:.1f} s, the deed included")

    def submit(self, steps: int, gate: str) -> str:
        """Submit, on the gateway, a chain of tasks, the last of which waits until it is told to end."""
        task = "tests.support.tasks."
        nodes = [
            {"name": f"n{n}", "task": f"{task}sleep", "args": [0.3], "after": [f"n{n - 1}"] if n else [], "immutable": True}
            for n in range(steps)
        ]
        nodes.append({"name": "gate", "task": f"{task}wait_for", "args": [gate], "after": [f"n{steps - 1}"], "immutable": True})
        self.hosts["shop"].run(f"cat >/home/ops/{gate}.json <<'END'\n{json.dumps({'name': gate, 'nodes': nodes})}\nEND")
        return self.hosts["shop"].run(f"dyrygentctl submit {gate}.json 2>/dev/null", user="ops").split()[0]

    def check_each_once(self, workflow: str, gate: str, tasks: int) -> None:
        """See it end, asked at the gateway, each task executed once."""
        self.world.executions.release(gate)
        self.hosts["shop"].run(
            f"dyrygentctl wait {workflow} --timeout {_WAIT_S} || {{ dyrygentctl explain {workflow}; exit 1; }}", user="ops"
        )
        counts = self.world.executions.counts()
        assert sorted(counts.values()) == [1] * tasks
        self.world.executions.clear()


@pytest.fixture(scope="module")
def ground(bare: Bare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Ground]:
    """Three booted hosts on which the older version was installed by the guide."""
    programs_or_skip()
    skip_without_hosts()
    directory = tmp_path_factory.mktemp("hosts")
    with ExitStack() as exits:
        place = exits.enter_context(short_directory())
        # An upgrade goes on for longer than most tests.
        exits.enter_context(pytest.MonkeyPatch.context()).setenv("DYRYGENTD_TEST_GATE_WAIT_S", "900")
        exits.callback(remove, directory)
        world = exits.enter_context(World(place, workers=1))
        networks = {"ops1": world.a, "ops2": world.b, "shop": world.network.host("shop")}
        (place / "t").mkdir(mode=0o755)
        postgres = exits.enter_context(_Postgres(world.c, place / "t", [each.address for each in networks.values()]))
        follow("database", postgres, place)
        try:
            tree = bare.copy(directory / "ops1")
            _prepare(tree, bare.source, world, place / "t/db.crt")
            hosts = {
                name: BareHost(
                    directory / name, bare.source, console=directory / f"{name}.console", network=Path(network.namespace)
                )
                for name, network in networks.items()
            }
            _install(hosts["ops1"])
            for name in _NAMES[1:]:
                subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(directory / name)], check=True, timeout=300)
                _name(directory / name, name, world)
            for each in hosts.values():
                exits.callback(each.power_off)
            _on_all(lambda name: hosts[name].boot(), *_NAMES)
        except Unable as error:
            pytest.fail(f"no hosts could be made or booted here: {error}")
        yield _Ground(world, postgres, hosts, networks)


def _prepare(tree: Path, source: Path, world: World, certificate: Path) -> None:
    """Have a tree trust the certificate of PostgreSQL, and have in it what an operator has cloned once."""
    shutil.copy(certificate, tree / "usr/local/share/ca-certificates/db.crt")
    subprocess.run(["chroot", str(tree), "update-ca-certificates"], check=True, capture_output=True, timeout=60)
    archive = subprocess.run(["git", "-C", str(source), "archive", _OLDER], check=True, capture_output=True, timeout=60).stdout
    (tree / "home/ops/dyrygentd").mkdir()
    subprocess.run(["tar", "-x", "-C", str(tree / "home/ops/dyrygentd")], input=archive, check=True, timeout=60)
    subprocess.run(["chroot", str(tree), "chown", "-R", "ops:ops", "/home/ops/dyrygentd"], check=True, timeout=60)
    _name(tree, "ops1", world)


def _install(host: BareHost) -> None:
    """Follow the guide on one host, of which the others are copies with names of their own."""
    with host:
        for block in (commands_of(GUIDE, "install"), service()):
            said = host.run(f"set -euo pipefail; cd ~/dyrygentd; {block}", user="ops", timeout_s=600)
        assert "the leader" in said, said


def _name(tree: Path, name: str, world: World) -> None:
    (tree / "etc/hostname").write_text(f"{name}\n")
    (tree / "etc/machine-id").write_text("")
    known = {"127.0.0.1": "localhost", "127.0.1.1": name, world.c.address: "db.example", world.redis.address: "broker.example"}
    (tree / "etc/hosts").write_text("".join(f"{address} {names}\n" for address, names in known.items()))


def service() -> str:
    """Return the guide's block for each host; the test's Redis has no TLS and no password."""
    return commands("service").replace("rediss://:secret@broker.example", "redis://broker.example")


def _on_all(deed: Callable[[str], object], *names: str) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(deed, names))


def test_life_of_two_hosts(ground: _Ground) -> None:
    """What the guide says of two hosts and a gateway holds under systemd, from the older version to the loss of a host."""
    ground.hosts["shop"].run(f"set -euo pipefail; {commands('gateway')}", user="ops")
    ground.wait_role("shop", "gateway")
    upgrade(ground)
    stop_in_good_order(ground)
    lose_the_leader(ground)
    have_another_broker(ground)
    go_on_with_a_copy(ground)


def upgrade(ground: _Ground) -> None:
    """By the guide: whoever waits first, the leader last; a workflow runs on all the while."""
    leader, standby = ground.pair()
    workflow = ground.submit(40, "upgraded")
    block = f"set -euo pipefail; rm -rf ~/dyrygentd; cp -r {SOURCE} ~/dyrygentd; cd ~/dyrygentd; {commands('upgrade')}"

    def follow_on(name: str) -> None:
        ground.hosts[name].run(block, user="ops", timeout_s=600)

    _on_all(follow_on, standby, "shop")
    assert ground.pair() == (leader, standby)
    ground.wait_role("shop", "gateway")
    follow_on(leader)
    assert ground.pair() == (standby, leader)
    ground.check_each_once(workflow, "upgraded", 41)


def stop_in_good_order(ground: _Ground) -> None:
    """The other one leads at once, and the first stands by when it is back."""
    leader, standby = ground.pair()
    workflow = ground.submit(20, "stopped")
    stop = "systemctl stop dyrygentd.socket dyrygentd"
    ground.measure("a leader that is stopped", standby, lambda: ground.hosts[leader].run(stop))
    ground.hosts[leader].run(stop.replace("stop", "start"))
    ground.wait_role(leader, "standby")
    ground.check_each_once(workflow, "stopped", 21)


def lose_the_leader(ground: _Ground) -> None:
    """Its host is gone, with its network, and nobody is told; the other one leads, and it stands by after the next boot."""
    leader, standby = ground.pair()
    workflow = ground.submit(20, "lost")

    def lose() -> None:
        for other in (ground.world.c, ground.world.a, ground.world.b, ground.networks["shop"]):
            if other is not ground.networks[leader]:
                ground.world.network.cut_off(ground.networks[leader], other)
        ground.hosts[leader].pull_the_plug()

    ground.measure("a host that is lost", standby, lose)
    ground.world.network.mend()
    ground.hosts[leader].boot()
    ground.wait_role(leader, "standby")
    ground.check_each_once(workflow, "lost", 21)


def have_another_broker(ground: _Ground) -> None:
    """A standby with another broker than the leader's stays down with status 2, says why, and runs once it is mended."""
    leader, standby = ground.pair()
    host = ground.hosts[standby]
    host.run(
        "sed -i.good 's|broker.example/0|broker.example/1|' /etc/credstore/dyrygentd.broker-url; systemctl restart dyrygentd",
        status=None,
    )
    assert _failed_with(host) == 2
    assert "which leads, is redis://broker.example:6379" in ground.status(standby)
    assert "configure the same `broker`" in host.run("systemctl status --no-pager dyrygentd", status=3)
    assert ground.role(leader) == "leader"
    host.run("mv /etc/credstore/dyrygentd.broker-url.good /etc/credstore/dyrygentd.broker-url; systemctl start dyrygentd")
    ground.wait_role(standby, "standby")


def go_on_with_a_copy(ground: _Ground) -> None:
    """A leader that a copy of its database has overtaken stays down with status 5, and says who goes on."""
    leader, standby = ground.pair()
    workflow = ground.submit(100, "copied")
    ground.postgres.execute("CREATE DATABASE copy")
    programs, socket = programs_or_skip(), ground.postgres.socket.parent
    at = f"-h {socket} -p {_PORT} -U postgres"
    subprocess.run(
        ["bash", "-euc", f"set -o pipefail; {programs}/pg_dump {at} ops | {programs}/psql -q {at} copy"],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    ground.hosts[standby].run(
        "sed -i 's|db.example/ops|db.example/copy|' /etc/credstore/dyrygentd.database-url; systemctl restart dyrygentd"
    )
    assert _failed_with(ground.hosts[leader]) == 5
    assert "NRestarts=0" in ground.hosts[leader].run("systemctl show dyrygentd -p NRestarts")
    assert standby in ground.status(leader)
    ground.wait_role(standby, "leader")
    ground.world.executions.release("copied")
    done = f"dyrygentctl wait {workflow} --timeout {_WAIT_S}"
    ground.hosts[standby].run(done, user="ops")
    assert set(ground.world.executions.counts().values()) == {1}


def _failed_with(host: BareHost) -> int:
    """Wait until the service is down and stays so; return its exit status."""
    host.run(f"timeout {_WAIT_S} sh -c 'until systemctl is-failed dyrygentd; do sleep 0.1; done'")
    return int(host.run("systemctl show -p ExecMainStatus --value dyrygentd"))
