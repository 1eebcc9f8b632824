"""Files that maps go over are read from one place, and no name leads out of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.values import ItemFiles
from dyrygentd.store.item_files import DirectoryItemFiles, is_below, item_files_of
from dyrygentd.store.remote_values import RemoteItemFiles


@pytest.fixture(params=["directory", "local"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ItemFiles:
    """A directory with a file in it, and one beside it that is nobody's affair."""
    (tmp_path / "lists/new").mkdir(parents=True)
    (tmp_path / "lists/new/a.jsonl").write_bytes(b"1\n2\n")
    (tmp_path / "secret").write_bytes(b"1\n")
    place: Callable[[str], ItemFiles | None] = item_files_of
    found = place(f"{tmp_path}/lists" if request.param == "directory" else f"file://{tmp_path}/lists")
    assert found is not None
    return found


def test_a_file_is_opened(files: ItemFiles) -> None:
    """Line by line, as far as somebody reads."""
    with files.open("new/a.jsonl") as file:
        assert file.readline(100) == b"1\n"


@pytest.mark.parametrize(
    "name", ["b", "../secret", "new/../../secret", "/etc/passwd", "", ".", "new", "new//a.jsonl", "a\0b", "a" * 300, "\ud800"]
)
def test_no_other_is(files: ItemFiles, name: str) -> None:
    """Whoever may submit does not read what the daemon may."""
    if name == "new" and isinstance(files, RemoteItemFiles):
        pytest.skip("what a directory is, is a store's own affair")
    with pytest.raises(KeyError):
        files.open(name)


def test_no_link_leads_out(tmp_path: Path) -> None:
    """Who may write into the directory does not read what the daemon may."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "secret").write_bytes(b"1\n")
    (tmp_path / "lists/link").symlink_to(tmp_path / "secret")
    with pytest.raises(KeyError):
        DirectoryItemFiles(tmp_path / "lists").open("link")


def test_a_circle_of_links(tmp_path: Path) -> None:
    """What never can be read is told at once: no map waits for it."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(KeyError):
        DirectoryItemFiles(tmp_path).open("a")


def test_one_that_cannot_be_read(tmp_path: Path) -> None:
    """What may be mended is told with its place."""
    (tmp_path / "file").write_text("")
    with pytest.raises((KeyError, StoreUnavailable)):
        DirectoryItemFiles(tmp_path / "file").open("a")


def test_names() -> None:
    """Each part is a name."""
    assert is_below("a/b.jsonl")
    assert not is_below("a/./b")
    assert item_files_of(None) is None
