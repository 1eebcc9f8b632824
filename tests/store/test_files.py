"""Files beside the database: by no link, and for their user alone."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import StoreUnavailable
from dyrygentd.store import care
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import node, workflow


async def _fill(path: Path, name: str = "w") -> None:
    store = SqliteStore(path)
    await store.open()
    await store.save([workflow(name)], [node(name, 0)])
    await store.close()


async def _ids(path: Path) -> list[str]:
    store = SqliteStore(path)
    await store.open()
    try:
        return [record.workflow_id for record in [await store.record("w"), await store.record("other")] if record]
    finally:
        await store.close()


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("name", ["state.db.lock", "state.db-wal", "state.db-shm", "state.db-journal"])
def test_no_link_is_followed(tmp_path: Path, name: str, link: Callable[[Path, Path], None]) -> None:
    """Whoever may write the directory cannot have another file of this user cut or written."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link(victim, tmp_path / name)
    with pytest.raises(StoreUnavailable, match=f"{name}' (is a symbolic link|has more names)") as caught:
        asyncio.run(_fill(tmp_path / "state.db"))
    assert "remove it" in caught.value.next_step
    assert victim.read_text() == "precious"
    (tmp_path / name).unlink()
    asyncio.run(_fill(tmp_path / "state.db"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe that nobody reads would have the daemon wait for ever."""
    os.mkfifo(tmp_path / "state.db.lock")
    with pytest.raises(StoreUnavailable, match="is no regular file"):
        asyncio.run(_fill(tmp_path / "state.db"))


def test_restore_takes_no_lock_by_a_link(tmp_path: Path) -> None:
    """It has the daemon's lock, and its care."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_fill(path))
    care.backup(path, copy)
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "state.db.lock").unlink()
    (tmp_path / "state.db.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreUnavailable, match="is a symbolic link"):
        care.restore(copy, path)
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("name", ["broker.lock", "broker.log"])
def test_own_broker_follows_no_link(short_tmp: Path, name: str) -> None:
    """Its lock and its log lie in the same directory."""
    victim = short_tmp / "victim"
    victim.write_text("precious")
    (short_tmp / name).symlink_to(victim)
    server = EmbeddedServer(short_tmp)
    with pytest.raises(StoreUnavailable, match="is a symbolic link"):
        server.start()
    assert victim.read_text() == "precious"


def test_modes_are_tightened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A database that was open to others is not any more, nor is what SQLite has beside it; the log says so."""
    path = tmp_path / "state.db"
    asyncio.run(_fill(path))
    wal = tmp_path / "state.db-wal"
    wal.touch()
    for file in (path, wal):
        file.chmod(0o644)

    def modes() -> set[int]:
        return {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}

    async def look() -> set[int]:
        store = SqliteStore(path)
        await store.open()
        try:
            await store.save([workflow("other")], [])
            return modes()
        finally:
            await store.close()

    assert asyncio.run(look()) == {0o600}
    assert f"'{path}' could be read by others (mode 0644): it has mode 0600 now" in caplog.text


def test_mode_that_cannot_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not used while others may read it, and the next step says what to do."""
    path = tmp_path / "state.db"
    asyncio.run(_fill(path))
    path.chmod(0o640)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    # As another user than its owner finds it; tests run as root, who may.
    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(StoreUnavailable, match=r"may be read by others \(mode 0640\)") as caught:
        asyncio.run(_fill(path))
    assert f"chmod 600 {path}" in caught.value.next_step


def test_restore_by_a_link_replaces_what_it_leads_to(tmp_path: Path) -> None:
    """The database stays where it is, on the disk that was chosen for it, and what it was before lies beside it, as a file."""
    disk, etc = tmp_path / "disk", tmp_path / "etc"
    disk.mkdir()
    etc.mkdir()
    path, link, copy = disk / "state.db", etc / "state.db", tmp_path / "copy.db"
    asyncio.run(_fill(path))
    care.backup(path, copy)
    asyncio.run(_fill(path, "other"))
    link.symlink_to(path)
    kept = care.restore(copy, link)
    assert link.is_symlink()
    assert not path.is_symlink()
    assert kept == disk / "state.db.before-restore"
    assert not kept.is_symlink()
    assert sorted(entry.name for entry in etc.iterdir()) == ["state.db"]
    assert asyncio.run(_ids(link)) == ["w"]
    assert sorted(asyncio.run(_ids(kept))) == ["other", "w"]
