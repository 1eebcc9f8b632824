"""Who may do what: the user at the other end of the socket, their groups, and the task names that may be submitted.

The kernel tells the user and the main group of whoever connected (SO_PEERCRED, unix(7)); the other groups are looked up. There
are three roles, each with what the ones before it may do: *read* everything, *submit* workflows and control one's own, *admin*
control everything. Root and the user the daemon runs as are always admins.
"""

import grp
import logging
import os
import pwd
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from dyrygentd.core.graph import Graph
from dyrygentd.core.user import User
from dyrygentd.errors import RequestError
from dyrygentd.http.lists import Lists, nobody
from dyrygentd.wire.bounds import Look, nothing

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("dyrygentd.http.access")

#: Seconds for which the groups of a user are remembered; a lookup may ask a directory service.
_GROUPS_KEPT_S: Final = 30.0
_USERS_MAX: Final = 1000
#: A directory service that does not answer holds up the requests of users it would have to be asked about, for so long.
_LOOKUP_TIMEOUT_S: Final = 5.0
_LOOKUPS_MAX: Final = 4
_EVERYBODY: Final = "*"


class Role(IntEnum):
    """What somebody may do; a higher one may do all that a lower one may."""

    NONE = 0
    READ = 1
    SUBMIT = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection; ``user`` is None on TCP, where nobody can tell.

    Attributes:
        user, group, process: As the kernel gave them when the connection was made. A process in another PID namespace is 0.
    """

    user: int | None = None
    group: int = -1
    process: int = 0
    address: str = "unknown"

    def __str__(self) -> str:
        if self.user is None:
            return self.address
        return f"{name_of(self.user)} {self.details}"

    @property
    def details(self) -> str:
        """Return number and process, which stand behind the name."""
        process = f"pid {self.process}" if self.process else "in another PID namespace"
        return f"(uid {self.user}, {process})"


class Forbidden(RequestError):
    """This user may not do that."""

    status = 403
    code = "forbidden"

    def __init__(self, message: str, *, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


class Access:
    """Decides. Names are users, or groups with ``@`` in front; ``*`` is everybody who may connect.

    Args:
        tasks, tasks_denied, queues, queues_denied: As `Lists` has them.
        hosts: Names that a Host header on TCP may have beside this machine's own; ``*`` is any.
        host: What this host is called where several have one store, so that each has users of its own; empty elsewhere.
        names_of: Looks up the names of a user and group, in a thread.
        lookup_timeout_s: How long that may take.

    Attributes:
        hosts, host: As given.
    """

    def __init__(
        self,
        *,
        admins: Iterable[str] = (),
        submitters: Iterable[str] = (_EVERYBODY,),
        readers: Iterable[str] = (_EVERYBODY,),
        tasks: Sequence[str] = (_EVERYBODY,),
        tasks_denied: Sequence[str] = (),
        queues: Sequence[str] = (_EVERYBODY,),
        queues_denied: Sequence[str] = (),
        hosts: Iterable[str] = (),
        host: str = "",
        names_of: "Callable[[int, int], Iterable[str]] | None" = None,
        lookup_timeout_s: float = _LOOKUP_TIMEOUT_S,
    ) -> None:
        self._names_of = names_of or names_in_system
        self._lookup_timeout_s = lookup_timeout_s
        self.hosts = frozenset(name.lower() for name in hosts)
        self.host = host
        self._names = {
            Role.ADMIN: frozenset(admins),
            Role.SUBMIT: frozenset(submitters),
            Role.READ: frozenset(readers),
        }
        self._lists = Lists(tasks=tasks, tasks_denied=tasks_denied, queues=queues, queues_denied=queues_denied)
        self._known: dict[tuple[int, int], tuple[float, Role]] = {}
        self._lookups = anyio.CapacityLimiter(_LOOKUPS_MAX)
        if host:
            # Of all others it is found out with their groups, in a thread.
            for user in (0, os.geteuid()):
                name_of(user)

    async def role_of(self, peer: Peer) -> Role:
        """Return what a peer may do. Who comes by TCP may read, and the routes there change nothing."""
        if peer.user is None:
            return Role.READ
        if peer.user in (0, os.geteuid()):
            return Role.ADMIN
        now, key = time.monotonic(), (peer.user, peer.group)
        until, role = self._known.get(key, (0.0, Role.NONE))
        if until < now:
            role = self._role_of_names({_EVERYBODY, str(peer.user), *await self._names_in_time(peer.user, peer.group)})
            while len(self._known) >= _USERS_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = (now + _GROUPS_KEPT_S, role)
        return role

    async def check(self, peer: Peer, needed: Role) -> Role:
        """Return a peer's role. Raises `Forbidden` if it is less than what is needed."""
        role = await self.role_of(peer)
        if role < needed:
            raise Forbidden(
                f"{peer} may not {_WORDS[needed]}; as it is configured, they may {_WORDS[role]}",
                next_step=f"an administrator of the daemon can add them to `{_SETTINGS[needed]}` in its configuration;"
                f" a change of groups counts within {_GROUPS_KEPT_S:.0f} s",
            )
        return role

    def user_of(self, peer: Peer) -> User | None:
        """Return whose a peer's workflows are; None on TCP, where nobody can tell."""
        return None if peer.user is None else self.at_home(User(peer.user))

    def at_home(self, owner: User) -> User:
        """Return a user as one of this host, unless it is known of which host they are."""
        if owner.host or not self.host:
            return owner
        return User(owner.number, self.host, _NAMES.get(owner.number, ""))

    def words_of(self, peer: Peer) -> str:
        """Return who a peer is, for a journal that several hosts may have."""
        user = self.user_of(peer)
        return f"{user.words} {peer.details}" if user is not None and user.host else str(peer)

    async def may_control(self, peer: Peer, owner: User | None) -> bool:
        """Tell whether a peer may control a workflow of this owner, and see what is in it."""
        role = await self.role_of(peer)
        return role is Role.ADMIN or (role is Role.SUBMIT and owner is not None and owner == self.user_of(peer))

    async def check_owner(self, peer: Peer, owner: User | None, workflow_id: str) -> None:
        """Raise `Forbidden` unless a peer may control this workflow."""
        await self.check(peer, Role.SUBMIT)
        if not await self.may_control(peer, owner):
            whose = "has no known owner" if owner is None else f"belongs to {self._words_of_owner(owner)}"
            raise Forbidden(
                f"workflow '{workflow_id}' {whose}, and {self.words_of(peer)} controls their own only",
                next_step="ask the owner, or an administrator of the daemon (root and those in `admins`)",
            )

    async def unknown(self) -> list[str]:
        """Return the users and groups, each with its setting, that this system does not know: nobody has what they were given."""
        named = [(_SETTINGS[role], name) for role, names in self._names.items() for name in sorted(names)]
        with anyio.move_on_after(self._lookup_timeout_s):
            return await anyio.to_thread.run_sync(
                lambda: [f"'{name}' in `{setting}`" for setting, name in named if not _is_known(name)],
                limiter=self._lookups,
                abandon_on_cancel=True,
            )
        return []

    def check_tasks(self, graph: Graph, look: Look = nothing, *, knows: Callable[[str], bool] = nobody) -> None:
        """Raise `TaskForbidden` or `QueueForbidden` if a graph has a task or names a queue that nobody may.

        Args:
            knows: Tells of which tasks the daemon's own app says where they go, whatever a client's app has said.
        """
        self._lists.check(graph, look, knows=knows)

    def _words_of_owner(self, owner: User) -> str:
        return owner.words if owner.host else name_of(owner.number)

    async def _names_in_time(self, user: int, group: int) -> Iterable[str]:
        """Return the names of a user and their groups; if they cannot be found out in time, what the kernel told."""
        with anyio.move_on_after(self._lookup_timeout_s):
            return await anyio.to_thread.run_sync(self._names_of, user, group, limiter=self._lookups, abandon_on_cancel=True)
        logger.warning("the name and groups of uid %d could not be looked up within %g s", user, self._lookup_timeout_s)
        return [f"@{group}"]

    def _role_of_names(self, names: set[str]) -> Role:
        return next((role for role in (Role.ADMIN, Role.SUBMIT, Role.READ) if names & self._names[role]), Role.NONE)


_WORDS: Final = {
    Role.NONE: "do nothing",
    Role.READ: "read",
    Role.SUBMIT: "submit workflows and control their own",
    Role.ADMIN: "control everything",
}
_SETTINGS: Final = {Role.NONE: "readers", Role.READ: "readers", Role.SUBMIT: "submitters", Role.ADMIN: "admins"}


def peer_of(transport: "asyncio.BaseTransport | None") -> Peer:
    """Say who is at the other end: user and process of a Unix socket (SO_PEERCRED, unix(7)), else the address."""
    peer: Any = None if transport is None else transport.get_extra_info("socket")
    if peer is None:
        return Peer()
    if peer.family != socket.AF_UNIX:
        return Peer(address=str(peer.getpeername()[0]))
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process, user, group = struct.unpack("3i", credentials)
    return Peer(user, group, process)


def _is_known(name: str) -> bool:
    """Tell whether a name of the configuration is a user or, with ``@`` in front, a group; numbers need no name."""
    bare = name.removeprefix("@")
    if name == _EVERYBODY or bare.isdecimal():
        return True
    try:
        grp.getgrnam(bare) if name.startswith("@") else pwd.getpwnam(bare)
    except KeyError:
        return False
    return True


#: Names of users as they were found out, empty of those who have none here.
_NAMES: Final[dict[int, str]] = {}


def name_of(user: int) -> str:
    """Return the name of a user, or their number if they have none here.

    It is looked up in a thread when a user comes for the first time, so that no directory service holds up the loop later.
    """
    if user not in _NAMES:
        try:
            name = pwd.getpwuid(user).pw_name
        except KeyError:
            name = ""
        while len(_NAMES) >= _USERS_MAX:
            _NAMES.pop(next(iter(_NAMES)), None)
        _NAMES[user] = name
    return _NAMES.get(user) or f"uid {user}"


def names_in_system(user: int, group: int) -> list[str]:
    """Return the name of a user, and the names and numbers of their groups with ``@`` in front."""
    name = name_of(user)
    try:
        numbers = {*os.getgrouplist(pwd.getpwuid(user).pw_name, group), group}
    except KeyError:
        numbers = {group}
    names = [name]
    for number in numbers:
        names.append(f"@{number}")
        try:
            names.append(f"@{grp.getgrgid(number).gr_name}")
        except KeyError:
            continue
    return names
