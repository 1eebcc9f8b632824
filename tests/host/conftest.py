"""A bare tree for the hosts of all tests here, which takes longest to make."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.host.machine import Unable, fetch_wheels, make_tree, missing

ROOT: Final = Path(__file__).parents[2]
_ASKED: Final = os.environ.get("DYRYGENTD_TEST_HOST", "")
_KEPT: Final = os.environ.get("DYRYGENTD_TEST_HOST_TREE", "")


class Bare(NamedTuple):
    """A tree of which hosts are made, with the wheels that they install, and what an operator has cloned."""

    tree: Path
    source: Path

    def copy(self, place: Path) -> Path:
        """Copy the tree to a place, and return that."""
        subprocess.run(["cp", "-a", "--reflink=auto", str(self.tree), str(place)], check=True, timeout=300)
        return place


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """A bare tree, of which hosts are copies."""
    if not _ASKED:
        pytest.skip("not asked for: it needs root and some minutes, DYRYGENTD_TEST_HOST=yes")
    if lacks := missing():
        pytest.skip(f"missing on this machine: {lacks} (Debian: debootstrap, systemd-container)")
    directory = tmp_path_factory.mktemp("bare")
    tree, source = directory / "tree", directory / "source"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(source)], check=True, timeout=60)
    try:
        if not _KEPT:
            make_tree(tree)
        else:
            if not Path(_KEPT).exists():
                make_tree(Path(_KEPT))
            subprocess.run(["cp", "-a", "--reflink=auto", _KEPT, str(tree)], check=True, timeout=300)
        fetch_wheels(tree, source)
        yield Bare(tree, source)
    except Unable as error:
        pytest.fail(f"no host could be made here: {error}")
    finally:
        remove(tree)


def remove(tree: Path) -> None:
    """Remove a tree: some gigabytes would be kept for three runs."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(tree)], check=False, timeout=300)
