"""Proxies in front of servers: one that can lose a reply at the worst moment, one that can be shut."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self


class CuttingProxy:
    """Forward connections to a server; cut one when the reply to a chosen command comes, after the server has carried it out.

    Args:
        listen: Path of the socket that clients connect to.
        server: Path of the server's socket.
    """

    def __init__(self, listen: Path, server: Path) -> None:
        self.url = f"redis+socket://{listen}"
        self._server = server
        self._lock = threading.Lock()
        self._to_cut: list[bytes] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(listen))
        self._socket.listen()
        self._start(self._accept)
        self.cuts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._lock:
            for opened in (self._socket, *self._open):
                # Wakes the thread that waits for it, which closing alone would not.
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
                opened.close()
        for thread in self._threads:
            thread.join(10)

    def cut_reply_to(self, *words: str) -> None:
        """Lose the reply to the next command that has one of these words in it; once for each call."""
        with self._lock:
            self._to_cut.extend(word.encode() for word in words)

    def forget_cuts(self) -> int:
        """Cut nothing more; return how many words were not met."""
        with self._lock:
            left = len(self._to_cut)
            self._to_cut.clear()
            return left

    def cut_all(self) -> int:
        """Cut every connection; return how many there were."""
        with self._lock:
            _shut(*self._open)
            return len(self._open) // 2

    def _start(self, work: "object", *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        # Those that have ended need not be joined, and a long test makes thousands.
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    server.connect(str(self._server))
                except OSError:
                    # As the server itself would: it is away, and comes back.
                    client.close()
                    server.close()
                    continue
                with self._lock:
                    self._open += [client, server]
                doomed = threading.Event()
                self._start(self._forward_commands, client, server, doomed)
                self._start(self._forward_replies, server, client, doomed)

    def _forward_commands(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while received := client.recv(1 << 20):
                with self._lock:
                    found = next((word for word in self._to_cut if word in received), None)
                    if found is not None:
                        self._to_cut.remove(found)
                        doomed.set()
                server.sendall(received)
        self._close(client, server)

    def _forward_replies(self, server: socket.socket, client: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while received := server.recv(1 << 20):
                if doomed.is_set():
                    self.cuts += 1
                    break
                client.sendall(received)
        self._close(client, server)

    def _close(self, client: socket.socket, server: socket.socket) -> None:
        """End a connection in both directions; the second of its two threads closes it."""
        _shut(client, server)
        with self._lock:
            if client in self._open:
                self._open.remove(client)
                self._open.remove(server)
            else:
                client.close()
                server.close()


class TcpGate:
    """Forward TCP connections to a server on a port of this host, until the gate is shut, or stalls.

    Args:
        server: Host and port.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._is_shut = False
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._flows.set()
        self.shut()
        _shut(self._socket)
        for thread in self._threads:
            thread.join(10)
        for opened in (self._socket, *self._open):
            opened.close()

    def shut(self) -> None:
        """Cut all connections, and close new ones at once."""
        with self._lock:
            self._is_shut = True
            _shut(*self._open)

    def stall(self) -> None:
        """Take connections and what comes on them, and let nothing through."""
        self._flows.clear()

    def open(self) -> None:
        """Let connections through again, with what was held back."""
        self._flows.set()
        with self._lock:
            self._is_shut = False

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                with self._lock:
                    if self._is_shut:
                        client.close()
                        continue
                    server = socket.create_connection(self._server)
                    self._open += [client, server]
                self._start(self._forward, client, server)
                self._start(self._forward, server, client)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(1 << 16):
                self._flows.wait()
                target.sendall(received)
        _shut(source, target)


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
