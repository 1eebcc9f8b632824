"""Whose a connection is, as the kernel tells it."""

import os
import socket
import sys
from pathlib import Path

import pytest

from dyrygentd.loopback.owners import Address, owner_of, trusted_users

_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"


def _row(local: str, remote: str, *, state: str = "01", user: int = 1000, inode: int = 7) -> str:
    return f"   1: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  {user}        0 {inode} 1 0000 20 4 30 10 -1"


def _pair() -> tuple[socket.socket, socket.socket, socket.socket]:
    listening = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listening.getsockname())
    return listening, theirs, listening.accept()[0]


def _addresses(ours: socket.socket) -> tuple[Address, Address]:
    return ours.getpeername(), ours.getsockname()


def test_connection_is_its_makers() -> None:
    """As long as it is there; one that was closed behind a request is nobody's, though the kernel shows root."""
    listening, theirs, ours = _pair()
    with listening, ours:
        with theirs:
            assert owner_of(*_addresses(ours)) == os.geteuid()
        assert owner_of(*_addresses(ours)) is None


def test_connection_of_ipv6_is_found() -> None:
    """Programs that have only sockets of IPv6 reach 127.0.0.1 by them."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_INET6) as theirs:
        try:
            theirs.connect(("::ffff:127.0.0.1", listening.getsockname()[1]))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        with listening.accept()[0] as ours:
            assert owner_of(*_addresses(ours)) == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can become another user")
def test_connection_of_another_user_is_theirs() -> None:
    """Whoever made it, not whoever is told of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = os.fork()
        if made == 0:
            os.setuid(65534)
            with socket.create_connection(listening.getsockname()) as theirs:
                theirs.recv(1)
            os._exit(0)
        with listening.accept()[0] as ours:
            assert owner_of(*_addresses(ours)) == 65534
        os.waitpid(made, 0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (_row("0100007F:C350", "0100007F:2198"), 1000),
        (_row("0100007F:C350", "0100007F:2198", inode=0, user=0), None),
        (_row("0100007F:C350", "0100007F:2198", state="04"), None),
        (_row("0100007F:C351", "0100007F:2198"), None),
        (_row("0100007F:2198", "0100007F:C350"), None),
        (_row("0000000000000000FFFF00000100007F:C350", "0000000000000000FFFF00000100007F:2198"), 1000),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the rows are those of a little-endian machine")
def test_rows_are_read(tmp_path: Path, row: str, expected: int | None) -> None:
    """The other end's row, not ours, while its process has it open."""
    table = tmp_path / "tcp"
    table.write_text(f"{_HEAD}\n{row}\n")
    assert owner_of(("127.0.0.1", 50000), ("127.0.0.1", 8600), (tmp_path / "none", table)) == expected


def test_root_is_trusted_and_sudo_knows_whose_browser_it_is() -> None:
    """Nobody else is: not even who says so in the environment without being root."""
    users = trusted_users({"SUDO_UID": "4711"})
    assert {0, os.geteuid()} <= users
    assert (4711 in users) is (os.geteuid() == 0)
    assert trusted_users({"SUDO_UID": "x"}) == {0, os.geteuid(), os.getuid()}
