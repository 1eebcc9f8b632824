"""When an answer is lost, the error is one that programs repeat on, and says what may have been done and what to do then."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dyrygentd import AsyncClient, Client
from dyrygentd.client.sync import Handle
from dyrygentd.errors import DaemonTimeout, DaemonUnreachable, RemoteError, RemoteUnavailable, WaitTimeout
from dyrygentd.scheduler import SchedulerLimits
from tests.http.support import Daemon

ONE = {"nodes": [{"name": "a", "task": "add", "args": [1, 2]}]}


def test_usual_retry_of_a_task_covers_it(short_tmp: Path) -> None:
    """`autoretry_for=(ConnectionError, TimeoutError)` is what people write, and a daemon that is away is meant by it."""
    with pytest.raises(ConnectionError) as caught:
        Client(short_tmp / "none.sock").submit(ONE)
    error = caught.value
    assert isinstance(error, DaemonUnreachable)
    assert not error.may_be_done
    assert str(error).startswith(f"cannot reach '{short_tmp}/none.sock'")
    assert error.next_step


def test_daemon_that_cannot_now_is_repeated_on(short_tmp: Path) -> None:
    """A disk that is full for a minute is a reason to come again, as a daemon that is away is; a refusal is none."""
    limits = SchedulerLimits(follow_interval_s=0.0, durable_timeout_s=1.0)
    with Daemon(short_tmp / "d.sock", scheduler_limits=limits) as daemon:
        daemon.call(setattr, daemon.store, "broken", "disk full")
        with pytest.raises(ConnectionError) as caught:
            Client(daemon.path).submit(ONE)
        assert isinstance(caught.value, RemoteUnavailable)
        assert caught.value.code == "not-stored"
        daemon.call(setattr, daemon.store, "broken", "")
        with pytest.raises(RemoteError) as refused:
            Client(daemon.path).submit({"nodes": []})
        assert not isinstance(refused.value, OSError)


def test_end_of_the_time_to_wait_is_a_timeout(holding: Daemon) -> None:
    """Who waits with a time catches what Python calls it."""
    handle = Client(holding.path).submit(ONE)
    with pytest.raises(TimeoutError) as caught:
        handle.wait(0)
    assert isinstance(caught.value, WaitTimeout)
    holding.let_go()


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "late"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_submission_without_a_key_may_have_been_taken(daemon: Daemon, short_tmp: Path, is_cut: bool, is_async: bool) -> None:
    """It was taken, in fact: repeating it would run everything twice, so the error says to look first."""
    with _losing_answers(daemon.path, short_tmp / "lossy.sock", is_cut=is_cut) as path:
        error = _lost(path, is_async=is_async)
    assert isinstance(error, TimeoutError) == isinstance(error, DaemonTimeout) == (not is_cut)
    assert error.may_be_done
    assert "the submission may have been taken" in str(error)
    assert "would run everything twice" in error.next_step
    assert len(Client(daemon.path).list()) == 1


def test_submission_with_a_key_is_repeated(daemon: Daemon, short_tmp: Path) -> None:
    """With a key the same call again gives the workflow that was taken."""
    with _losing_answers(daemon.path, short_tmp / "lossy.sock", is_cut=False) as path:
        error = _lost(path, key="nightly-2026-11-29")
    assert "with the same key" in error.next_step
    handle = Client(daemon.path).submit(ONE, key="nightly-2026-11-29")
    assert handle.submitted is not None
    assert not handle.submitted.created


@pytest.mark.parametrize(
    ("call", "words", "next_step"),
    [
        (lambda client: client.submit({**ONE, "key": "k"}), "the submission may have been taken", "with the same key"),
        (lambda client: client.submit(b'{"nodes": []}'), "the submission may have been taken", "if the definition has a key"),
        (lambda client: client.take_over(b"{}"), "may have been taken over", "is refused, and nothing changes"),
        (lambda client: client.perform_in_bulk("pause"), "the verb may have been carried out", "what is so already"),
        (lambda client: _handle(client).cancel(), "the verb may have been carried out", "what is so already"),
        (lambda client: _handle(client).retry(), "the verb may have been carried out", "what is so already"),
        (lambda client: _handle(client).retry(force=True), "the verb may have been carried out", "it means once more"),
        (lambda client: _handle(client).rerun("a"), "the verb may have been carried out", "it means once more"),
        (lambda client: client.list(), "", "nothing was done, it can be repeated"),
    ],
)
def test_each_method_says_what_to_do(
    daemon: Daemon, short_tmp: Path, call: Callable[[Client], Any], words: str, next_step: str
) -> None:
    """What may be repeated blindly, and what only after a look, is told where the answer is missing."""
    lossy = _losing_answers(daemon.path, short_tmp / "lossy.sock", is_cut=True)
    with lossy as path, pytest.raises(DaemonUnreachable) as caught:
        call(Client(path))
    assert words in str(caught.value)
    assert next_step in caught.value.next_step
    assert caught.value.may_be_done == bool(words)


def _handle(client: Client) -> Handle:
    return Handle(client._connection, "some-id")


def _lost(path: Path, *, is_async: bool = False, key: str | None = None) -> DaemonUnreachable:
    def submit() -> None:
        Client(path, timeout_s=0.3).submit(ONE, key=key)

    async def submit_async() -> None:
        async with AsyncClient(path, timeout_s=0.3) as client:
            await client.submit(ONE, key=key)

    with pytest.raises(DaemonUnreachable) as caught:
        asyncio.run(submit_async()) if is_async else submit()
    return caught.value


@contextmanager
def _losing_answers(daemon: Path, path: Path, *, is_cut: bool) -> Iterator[Path]:
    """Hand requests on to a daemon, wait for its answers, and keep them; cut the connection then, or leave it open."""
    kept: list[socket.socket] = []
    threads: list[threading.Thread] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def relay(client: socket.socket) -> None:
            with socket.socket(socket.AF_UNIX) as behind:
                behind.connect(str(daemon))
                behind.settimeout(10)
                request = b""
                while not _is_whole(request):
                    request += client.recv(65536)
                behind.sendall(request)
                assert behind.recv(65536)
            if is_cut:
                client.close()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                kept.append(client)
                threads.append(threading.Thread(target=relay, args=(client,)))
                threads[-1].start()

        accepting = threading.Thread(target=serve)
        accepting.start()
        try:
            yield path
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(10)
            for client in kept:
                client.close()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and len(body) >= (int(lengths[0].partition(b":")[2]) if lengths else 0)
