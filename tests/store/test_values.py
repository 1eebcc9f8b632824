"""Large values in a directory, and wherever else they may be kept: the same texts come back, and nothing is left behind."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrygentd.errors import ConfigurationError, StoreUnavailable
from dyrygentd.ports.values import ValueStore
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.remote_values import RemoteValues
from dyrygentd.store.values import DirectoryValues, value_store_of


@pytest.fixture(params=["directory", "memory", "local"])
def values(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ValueStore]:
    """Each kind that needs no server."""
    if request.param == "directory":
        yield DirectoryValues(tmp_path / "values")
    elif request.param == "local":
        yield RemoteValues(f"file://{tmp_path}/remote")
    else:
        remote = RemoteValues("memory://values")
        yield remote
        remote.delete([name for name, _ in remote.find("db")])


def test_written_and_read(values: ValueStore) -> None:
    """Who reads gets what was written, whatever it is; what is not there is no outage."""
    values.write("db/w1/0-1-a", b'"text"')
    values.write("db/w2/0-1-b", b"\x00\xff" * 1000)
    assert values.read("db/w1/0-1-a") == b'"text"'
    assert values.read("db/w2/0-1-b") == b"\x00\xff" * 1000
    with pytest.raises(KeyError):
        values.read("db/w1/0-1-c")


def test_found_and_deleted(values: ValueStore) -> None:
    """What is there of one database is found with its size; what is deleted twice is deleted."""
    assert list(values.find("db")) == []
    values.write("db/w1/a", b"12345")
    values.write("db/w1/b", b"1")
    values.write("other/w1/a", b"1")
    assert sorted(values.find("db")) == [("db/w1/a", 5), ("db/w1/b", 1)]
    for _ in range(2):
        values.delete(["db/w1/a", "db/w1/b"])
    assert list(values.find("db")) == []
    values.delete(["other/w1/a"])


def test_nobody_else_reads_them(tmp_path: Path) -> None:
    """Values may be secret: files and directories are the daemon's own user's alone."""
    DirectoryValues(tmp_path / "values").write("db/w/a", b"1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "values", *(tmp_path / "values").rglob("*")]}
    assert modes == {"values": 0o700, "db": 0o700, "w": 0o700, "a": 0o600}


def test_an_empty_directory_goes(tmp_path: Path) -> None:
    """With the last value of a workflow its directory goes, so that a million workflows leave none."""
    values = DirectoryValues(tmp_path / "values")
    values.write("db/w/a", b"1")
    values.delete(["db/w/a"])
    assert [path.name for path in (tmp_path / "values").rglob("*")] == ["db"]


def test_what_was_not_finished_is_deleted(tmp_path: Path) -> None:
    """A process that was killed while it wrote leaves a file that is no value."""
    values = DirectoryValues(tmp_path / "values")
    values.write("db/w/a", b"1")
    (tmp_path / "values/db/w/.new-0123").write_bytes(b"half")
    assert list(values.find("db")) == [("db/w/a", 1)]
    assert os.listdir(tmp_path / "values/db/w") == ["a"]


def test_a_full_disk(tmp_path: Path) -> None:
    """What cannot be written is told with the place and the reason, and leaves nothing behind."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from dyrygentd.store.values import DirectoryValues;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "DirectoryValues(Path(sys.argv[1])).write('db/w/a', b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "values")], capture_output=True, text=True, check=False)
    assert f"values cannot be written in the directory '{tmp_path}/values': File too large" in done.stderr
    assert os.listdir(tmp_path / "values/db/w") == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    """A directory that is none is named."""
    (tmp_path / "values").write_text("")
    values = DirectoryValues(tmp_path / "values")
    with pytest.raises(StoreUnavailable, match=r"values cannot be written in the directory '.*values': (Not a dir|File exists)"):
        values.write("db/w/a", b"1")


def test_where_they_are_kept(tmp_path: Path) -> None:
    """Beside a file by default, nowhere beside PostgreSQL: its hosts have no directory in common that anybody knows of."""
    file, server = tmp_path / "state.db", PostgresUrl.read("postgresql://me@db1/flows")
    assert repr(value_store_of(None, file)) == f"<DirectoryValues '{tmp_path}/values'>"
    assert value_store_of(None, server) is None
    assert value_store_of("none", file) is None
    assert repr(value_store_of("/mnt/shared", server)) == "<DirectoryValues '/mnt/shared'>"
    assert repr(value_store_of("memory://values", server)) == "<RemoteValues 'memory://values'>"


def test_an_address_that_nobody_knows() -> None:
    """What cannot be used is told at once, with what is missing."""
    with pytest.raises(ConfigurationError, match="begins with 'nothing://', and cannot be used: Protocol not known"):
        value_store_of("nothing://bucket", None)
