"""The commands for the care of a database, as an operator gives them."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import Daemon
from tests.support.forking import run_to_end
from tests.support.servers import wait_until

ONE = {"name": "kept", "nodes": [{"name": "one", "task": "nobody.runs.this"}]}


def _run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dyrygentd", *arguments]
    done = run_to_end(command)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def daemon(short_tmp: Path, redis_server: EmbeddedServer) -> Daemon:
    """A daemon that is not started."""
    return Daemon(["--broker", redis_server.url, "--drain-timeout-s", "0.1"], directory=short_tmp)


def test_backup_and_restore(daemon: Daemon, short_tmp: Path) -> None:
    """A copy made while the daemon works brings its workflows back; while it works none is put in its place."""
    database, copy = ["--database", str(daemon.database_path)], str(short_tmp / "copy.db")
    with daemon, daemon.client() as client:
        first = client.submit(ONE)
        made = json.loads(_run("backup", copy, "--json", *database).stdout)
        assert made["bytes"] == Path(copy).stat().st_size
        assert "exists" in _run("backup", copy, *database, status=1).stderr
        client.submit({**ONE, "name": "gone"})
        assert "in use by process" in _run("restore", copy, *database, status=1).stderr
        assert "1 running" not in _run("check-db", *database).stdout
    kept = json.loads(_run("restore", copy, "--json", *database).stdout)["kept"]
    assert Path(kept).is_file()
    with daemon, daemon.client() as client:
        assert [view.id for view in client.list()] == [first.id]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGINT])
def test_copy_that_is_cut_off_leaves_nothing(daemon: Daemon, short_tmp: Path, number: signal.Signals) -> None:
    """By a service manager or by hand, in the middle of it: no half of a copy stays, and it can be made again."""
    with daemon:
        pass
    with closing(sqlite3.connect(daemon.database_path)) as database, database:
        database.execute("CREATE TABLE much (content)")
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT randomblob(300) FROM n"
        database.execute(f"INSERT INTO much {rows}")
    copies = short_tmp / "copies"
    copies.mkdir()
    copy = ["backup", str(copies / "copy.db"), "--database", str(daemon.database_path)]
    with subprocess.Popen([sys.executable, "-m", "dyrygentd", *copy], stderr=subprocess.PIPE, text=True) as process:
        # The interpreter's start is in it, which takes its time on a busy machine.
        wait_until(lambda: any(each.stat().st_size for each in copies.glob("*.part")), timeout_s=120)
        process.send_signal(number)
        assert process.wait(30) in (1, 130)
        assert process.stderr is not None
        assert "interrupted" in process.stderr.read()
    assert [*copies.iterdir()] == []
    _run(*copy)


def test_damage_has_an_exit_status(daemon: Daemon) -> None:
    """Monitoring can rely on it: 0 for a whole database, 1 for a damaged one, with what to do."""
    with daemon, daemon.client() as client:
        client.submit(ONE)
    arguments = ["check-db", "--database", str(daemon.database_path)]
    found = json.loads(_run(*arguments, "--json").stdout)
    assert (found["is_well"], found["workflows"]) == (True, {"running": 1})
    daemon.database_path.write_bytes(b"x" * 8192)
    done = _run(*arguments, status=1)
    assert "no SQLite database or is damaged" in done.stderr
    assert "is that the file?" in done.stderr
    assert "restore" in done.stderr
    wrong = _run("restore", str(daemon.database_path), "--database", str(daemon.database_path.with_name("other.db")), status=1)
    assert "name a copy that `dyrygentd backup` made" in wrong.stderr
    assert "is no regular file" in _run("backup", "", "--database", str(daemon.database_path), status=1).stderr
    assert "there is no database" in _run("check-db", "--database", "/nowhere/state.db", status=1).stderr
