"""Hosts that are network namespaces, and the wires between them, which can be cut, slowed and made lossy by seed.

*A host* is two namespaces, of network and of the host's name, without a process of their own: this process holds them open, so
they are gone with it, however that ends. What is started `inside` has that host's network alone, and its name. Sockets of the
file system are seen from everywhere: by them tests steer servers and daemons whose network is cut.

*The wires* are a thread of this process. Each host has one network card, a TUN device, at whose other end the thread takes
packets, and passes them on to the host that has their address, later, or never. Nothing tells either side of a packet that was
dropped, as with a cable that was pulled.

*Rejected.* ``tc netem`` between pairs of virtual cards: not every kernel has it (those that are built for virtual machines do
not), and its losses have no seed. Rules of a firewall for cuts: another program, and the weather would still be missing.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, Self

import pytest

#: clone(2), and the kernel's documentation of tuntap.
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWUTS: Final = 0x04000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_DEVICE: Final = "/dev/net/tun"
_CARD: Final = "eth0"
#: Packets of one card before others have their turn.
_AT_ONCE: Final = 64
_PACKET_BYTES_MAX: Final = 1 << 16
#: More packets on their way than any test sends: as a router does, it drops what comes then.
_ON_THEIR_WAY_MAX: Final = 20_000
_libc = ctypes.CDLL(None, use_errno=True)


def skip_without_hosts() -> None:
    """Skip the test where no hosts can be made; CI says so at its end."""
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, which only root can make")
    if shutil.which("ip") is None:
        pytest.skip("hosts are network namespaces, and there is no `ip` on PATH to set up theirs (Debian: iproute2)")
    try:
        with Network() as network:
            network.host("x")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"hosts are network namespaces with a TUN device, and here none can be made: {error}")


class Weather(NamedTuple):
    """How long a packet is under way to or from a host, and how likely it is lost."""

    delay_s: float = 0.0
    loss: float = 0.0


class Host:
    """A host with one card, and one address or more, between which wires are cut one by one."""

    def __init__(self, name: str, addresses: Sequence[str]) -> None:
        self.name = name
        self.addresses = addresses
        self._namespaces = _new_namespaces(name)
        try:
            with self.inside():
                self.card = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                fcntl.ioctl(self.card, _TUNSETIFF, struct.pack("16sH22x", _CARD.encode(), _IFF_TUN_NO_PI))
            self.run("ip", "link", "set", "lo", "up")
            for address in addresses:
                self.run("ip", "address", "add", f"{address}/32", "dev", _CARD)
            self.run("ip", "link", "set", _CARD, "up")
            self.run("ip", "route", "add", "default", "dev", _CARD)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Host {self.name} {' '.join(self.addresses)}>"

    @property
    def address(self) -> str:
        """Return the first address."""
        return self.addresses[0]

    @property
    def namespace(self) -> str:
        """Return the path of the namespace of its network, for other processes, as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._namespaces[0]}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread, and the processes and threads that it starts meanwhile, in this host's network."""
        before = _namespaces()
        try:
            _enter(self._namespaces)
            yield
        finally:
            _enter(before)
            for descriptor in before:
                os.close(descriptor)

    def run(self, *command: str) -> str:
        """Run a program on it; return what it prints."""
        with self.inside():
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        """Take its card away, and let go of it: it ends with its last process."""
        for descriptor in (getattr(self, "card", None), *self._namespaces):
            if descriptor is not None:
                os.close(descriptor)


class Network:
    """Hosts, and the thread that is the wires between them. Guards: packets of one way never overtake each other.

    Args:
        seed: Of what is lost.
    """

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._hosts: dict[str, Host] = {}
        # Replaced as a whole, so that the thread needs no lock.
        self._cards: dict[bytes, tuple[int, Weather]] = {}
        self._cuts: frozenset[bytes] = frozenset()
        self._on_their_way: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._poll = select.poll()
        self._reading, self._writing = os.pipe()
        self._poll.register(self._reading, select.POLLIN)
        self._thread = threading.Thread(target=self._carry, name="wires", daemon=True)
        self.carried = self.dropped = 0

    def __repr__(self) -> str:
        cuts = [f"{socket.inet_ntoa(pair[:4])}>{socket.inet_ntoa(pair[4:])}" for pair in sorted(self._cuts)]
        return f"<Network {[*self._hosts.values()]} {cuts=} carried={self.carried} dropped={self.dropped}>"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)
        for host in self._hosts.values():
            host.close()

    def host(self, name: str, *, addresses: int = 1) -> Host:
        """Return the host of this name; made, with so many addresses, if it is not there."""
        host = self._hosts.get(name)
        if host is None:
            number = len(self._hosts) + 1
            host = self._hosts[name] = Host(name, [f"10.99.{number}.{each}" for each in range(1, addresses + 1)])
            self._set_weather(host, Weather())
            self._poll.register(host.card, select.POLLIN)
            # The thread waits for the cards that were there before.
            os.write(self._writing, b"!")
        return host

    def cut(self, one: str, other: str) -> None:
        """Drop what goes between two addresses, in both directions."""
        pair = socket.inet_aton(one), socket.inet_aton(other)
        self._cuts |= {pair[0] + pair[1], pair[1] + pair[0]}

    def cut_off(self, host: Host, other: Host) -> None:
        """Cut all ways between two hosts."""
        for one in host.addresses:
            for address in other.addresses:
                self.cut(one, address)

    def slow(self, host: Host, *, delay_s: float, loss: float = 0.0) -> None:
        """Have each packet to and from a host be under way for so long, and some of them be lost."""
        self._set_weather(host, Weather(delay_s, loss))

    def mend(self) -> None:
        """Undo all cuts, and have the weather be good."""
        self._cuts = frozenset()
        for host in self._hosts.values():
            self._set_weather(host, Weather())

    def _set_weather(self, host: Host, weather: Weather) -> None:
        self._cards = self._cards | {socket.inet_aton(each): (host.card, weather) for each in host.addresses}

    def _carry(self) -> None:
        """Pass packets on, until this network is left."""
        while True:
            pause_ms = None if not self._on_their_way else max(0.0, 1000 * (self._on_their_way[0][0] - time.monotonic()))
            for ready, _ in self._poll.poll(pause_ms):
                if ready != self._reading:
                    self._take(ready)
                elif not os.read(ready, 64):
                    return
            while self._on_their_way and self._on_their_way[0][0] <= time.monotonic():
                _, _, card, packet = heapq.heappop(self._on_their_way)
                self._deliver(card, packet)

    def _take(self, card: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(card, _PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            # IPv4 alone has both addresses there; what else a host says when its card comes up is for nobody.
            pair = packet[12:20]
            source, target = self._cards.get(pair[:4]), self._cards.get(pair[4:])
            if packet[0] >> 4 != 4 or source is None or target is None or pair in self._cuts:
                self.dropped += 1
                continue
            weathers = source[1], target[1]
            if any(weather.loss and self._chance.random() < weather.loss for weather in weathers):
                self.dropped += 1
            elif delay_s := sum(weather.delay_s for weather in weathers):
                if len(self._on_their_way) < _ON_THEIR_WAY_MAX:
                    self._number += 1
                    heapq.heappush(self._on_their_way, (time.monotonic() + delay_s, self._number, target[0], packet))
            else:
                self._deliver(target[0], packet)

    def _deliver(self, card: int, packet: bytes) -> None:
        # A host whose queue is full loses it.
        with suppress(OSError):
            os.write(card, packet)
            self.carried += 1


def _namespaces() -> list[int]:
    """Return what holds the namespaces of this thread open: of the network, and of the host's name."""
    return [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "uts")]


def _enter(namespaces: Sequence[int]) -> None:
    for descriptor in namespaces:
        _call(_libc.setns, descriptor, 0)


def _new_namespaces(name: str) -> list[int]:
    """Make those of a host of this name; return what holds them open."""
    made: list[list[int] | OSError] = []

    def make() -> None:
        # They are this thread's alone.
        try:
            _call(_libc.unshare, _CLONE_NEWNET | _CLONE_NEWUTS)
            socket.sethostname(name)
            made.append(_namespaces())
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
