"""Whose a restored database is: root does it, and the daemon's user has to open it."""

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dyrygentd.errors import StoreUnavailable
from dyrygentd.store import care
from dyrygentd.store.owners import FileOwner
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import workflow

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
USER, GROUP = 4711, 4712

_AS_USER = """
import asyncio, os, sys, tempfile
from pathlib import Path
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import workflow

async def use(path, name):
    store = SqliteStore(path)
    await store.open()
    await store.save([workflow(name)], [])
    if name == "killed":
        os._exit(0)
    await store.close()

# Once as root: the interpreter may be where that user cannot read, and imports some of itself late.
with tempfile.TemporaryDirectory() as scratch:
    asyncio.run(use(Path(scratch, "state.db"), "first"))
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]))
try:
    asyncio.run(use(Path(sys.argv[1]), sys.argv[4]))
except Exception as error:
    sys.exit(f"{error}|{getattr(error, 'next_step', '')}")
"""


def _used(path: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _AS_USER, str(path), str(GROUP), str(USER), name]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _use(path: Path, name: str) -> None:
    """Open it as that user's daemon does, and save a workflow; one called 'killed' leaves its log behind."""
    done = _used(path, name)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of that user's, which it can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(name, "state")
        path.mkdir(mode=0o700)
        os.chown(path, USER, GROUP)
        yield path


def _owners(directory: Path) -> set[tuple[int, int]]:
    return {(each.stat().st_uid, each.stat().st_gid) for each in directory.iterdir()}


def _made(path: Path) -> None:
    async def make() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.save([workflow("copied")], [])
        await store.close()

    asyncio.run(make())


@only_root
@pytest.mark.parametrize("before", ["", "closed", "killed"])
def test_root_restores_for_the_owner(directory: Path, tmp_path: Path, before: str) -> None:
    """Whatever was there, or nothing: all files are the daemon's user's afterwards, and it can open them."""
    path, copy = directory / "state.db", tmp_path / "copy.db"
    _made(copy)
    if before:
        _use(path, before)
    kept = care.restore(copy, path)
    assert (kept is not None) == bool(before)
    assert _owners(directory) == {(USER, GROUP)}
    assert {each.stat().st_mode & 0o777 for each in directory.iterdir()} == {0o600}
    _use(path, "later")
    assert care.check(path).workflows == {"running": 2}


@only_root
def test_owner_of_the_file_goes_before_that_of_the_directory(directory: Path, tmp_path: Path) -> None:
    """A database may lie in a directory of somebody else's, who did not make it."""
    path, copy = directory / "state.db", tmp_path / "copy.db"
    _made(copy)
    _made(path)
    os.chown(path, USER + 1, GROUP + 1)
    path.chmod(0o644)
    care.restore(copy, path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (USER + 1, GROUP + 1, 0o600)


@only_root
@pytest.mark.parametrize("before", ["closed", "killed"])
def test_root_looks_and_copies_for_the_owner(directory: Path, tmp_path: Path, before: str) -> None:
    """Looking and copying as root leave no file that the daemon cannot open, also where a killed one has left its log."""
    path = directory / "state.db"
    _use(path, before)
    care.check(path)
    care.backup(path, tmp_path / "copy.db")
    assert _owners(directory) == {(USER, GROUP)}
    _use(path, "later")


@only_root
def test_file_of_somebody_else_in_ones_directory(directory: Path) -> None:
    """What a `cp` as root has left is refused with the command that mends it."""
    path = directory / "state.db"
    _made(path)
    done = _used(path, "x")
    command = done.stderr.split("|")[1].split("`")[1]
    assert command == f"sudo chown --reference={directory} {path} {path}.lock"
    subprocess.run(shlex.split(command)[1:], check=True)
    _use(path, "later")


@only_root
def test_directory_that_is_read_only(directory: Path) -> None:
    """Who starts the daemon is told what has to be written, and the database is as it was."""
    path = directory / "state.db"
    _use(path, "closed")
    before = path.read_bytes()
    directory.chmod(0o555)
    path.with_name("state.db.lock").unlink()
    done = _used(path, "x")
    assert f"let this user (uid {USER}) write in '{directory}'" in done.stderr
    assert path.read_bytes() == before


def test_system_database_is_hinted_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who forgets `sudo` is told so, instead of that there is no database."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StoreUnavailable, match="there is no database") as caught:
        care.check(tmp_path / "home" / "state.db", system=tmp_path / "state.db")
    assert caught.value.next_step.startswith(f"`sudo` for the system's ('{tmp_path / 'state.db'}')")
    with pytest.raises(StoreUnavailable) as caught:
        care.check(tmp_path / "state.db", system=tmp_path / "state.db")
    assert caught.value.next_step == "name it with --database"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_other_file_is_given_away(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """Whoever owns the directory may put a link in the place of the copy: nothing of what it leads to is changed."""
    other, path = tmp_path / "other", tmp_path / "state.db"
    other.write_text("root's")
    other.chmod(0o640)
    link(other, path)
    with pytest.raises(StoreUnavailable, match=r"is a symbolic link|has more names"):
        FileOwner(os.getuid(), os.getgid(), 0o600).give(path)
    assert other.stat().st_mode & 0o777 == 0o640


@only_root
def test_closed_directory_is_no_missing_database(directory: Path) -> None:
    """Whoever may not look into the directory is told that, and not that nothing is there."""
    path = directory / "state.db"
    code = (
        "import os, sys; from pathlib import Path; from dyrygentd.store import care\n"
        "os.setgroups([]); os.setgid(5); os.setuid(5)\n"
        "try: care.check(Path(sys.argv[1]))\nexcept Exception as e: print(type(e).__name__, e, e.next_step)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True)
    assert "StoreUnavailable cannot look for the database" in done.stdout
    assert "`sudo`" in done.stdout


@only_root
@pytest.mark.parametrize("before", ["closed", "killed"])
def test_root_writes_through_no_link(directory: Path, tmp_path: Path, before: str) -> None:
    """Whoever owns the directory replaces the file that root is about to fill by a link: what it leads to is not touched."""
    path, copy = directory / "state.db", tmp_path / "copy.db"
    _made(copy)
    _use(path, before)
    tmp_path.chmod(0o755)
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    planted: list[str] = []

    def plant(event: str, arguments: tuple[object, ...]) -> None:
        # Between two steps of ours, as an attacker who is quick would be.
        if event != "sqlite3.connect" or planted or os.geteuid() != USER:
            return
        for part in directory.glob(".state.db.*.part"):
            planted.append(str(part))
            part.unlink()
            part.symlink_to(victim / "made-by-root")

    _AUDITED.append(plant)
    try:
        with contextlib.suppress(StoreUnavailable):
            care.restore(copy, path)
    finally:
        _AUDITED.clear()
    assert planted
    assert list(victim.iterdir()) == []
    assert (os.geteuid(), os.getegid()) == (0, os.getgid())


@only_root
def test_link_of_somebody_else_is_not_followed(directory: Path, tmp_path: Path) -> None:
    """The daemon's user puts a link in the place of the database: root writes nothing where it leads, and stays root."""
    path, copy, groups = directory / "state.db", tmp_path / "copy.db", os.getgroups()
    _made(copy)
    path.symlink_to(tmp_path / "root's" / "file")
    os.chown(path, USER, GROUP, follow_symlinks=False)
    with pytest.raises(StoreUnavailable, match="is a link that root has not made"):
        care.restore(copy, path)
    assert not (tmp_path / "root's").exists()
    # One that root has made is meant.
    path.unlink()
    path.symlink_to(tmp_path / "root's" / "file")
    assert care.restore(copy, path) is None
    assert care.check(tmp_path / "root's" / "file").workflows == {"running": 1}
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, os.getgid(), groups)


#: Hooks of auditing cannot be taken out again.
_AUDITED: list[Callable[[str, tuple[object, ...]], None]] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    for hook in _AUDITED:
        hook(event, arguments)


sys.addaudithook(_audit)
