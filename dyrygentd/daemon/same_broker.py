"""Whether processes on one database have one broker: of two a takeover would leave what is in flight at the first one.

Whoever leads notes in the database where its broker is, with its term. Who stands by compares, and ends if that is another one.
It has to see for that that the leader goes on: of one that is there no more the next process may have been configured anew. For
the same reason the note of an earlier leader does not count, and until the new one has a term its lease tells which it is.

*The address* is compared, as it is configured. One of the machine itself, ``localhost`` or a socket, may be the same broker on
two machines or not, since something there may pass connections on, so that is said and no more.
"""

import json
import re
import socket
from typing import Any, Final, NamedTuple, Self

import anyio

from dyrygentd.errors import ConfigurationError
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import LeaseView
from dyrygentd.transport.broker_address import address_of

_NOTE: Final = "leader's broker"
#: How soon it is looked again whether the leader goes on, and by how much longer its lease holds then at least.
_LOOK_S: Final = 0.2
_RENEWED_S: Final = 0.05
_OF_THE_MACHINE: Final = re.compile(r"\w+://(localhost|127\.[\d.]+|\[?::1\]?):|redis\+socket://")


class BrokerPlace(NamedTuple):
    """Where a broker is, as a process on some machine calls it."""

    address: str
    machine: str

    @classmethod
    def of(cls, app: Any) -> Self:
        """Return where the broker of an app is; nothing is connected."""
        return cls(address_of(app.connection_for_write()), socket.gethostname())

    @property
    def is_of_the_machine(self) -> bool:
        """Whether each machine may have another broker there."""
        return _OF_THE_MACHINE.match(self.address) is not None


class _Note(NamedTuple):
    """What whoever leads notes; process and machine are those of its lease."""

    term: int
    pid: int
    machine: str
    address: str

    def is_of(self, view: LeaseView) -> bool:
        """Tell whether it is whoever leads now that has noted it."""
        holder = view.holder
        return holder is not None and (self.term, self.pid, self.machine) == (view.term, holder.pid, holder.host)


async def note_broker(store: Store, place: BrokerPlace, *, term: int, pid: int) -> None:
    """Note where the broker of this process is, which leads. Raises `Fenced` or `StoreUnavailable`."""
    await store.remember(_NOTE, json.dumps({"term": term, "pid": pid, **place._asdict()}))


async def compare_brokers(store: Store, lease: Lease, own: BrokerPlace) -> str:
    """Return what is doubtful about the broker of a process that does not lead; empty if nothing is, or nobody leads.

    Raises:
        ConfigurationError: Whoever leads, and goes on, has another one.
        StoreUnavailable: It cannot be found out.
    """
    until: float | None = None
    while True:
        view, now = await lease.view(), anyio.current_time()
        noted = await store.recall(_NOTE)
        theirs = _Note(**json.loads(noted)) if noted else None
        if theirs is None or not (view.is_held and theirs.is_of(view)):
            return ""
        if theirs.address == own.address:
            is_doubtful = own.is_of_the_machine and own.machine != theirs.machine
            return f"the broker {own.address} of '{own.machine}' has to be that of '{theirs.machine}', too" if is_doubtful else ""
        if until is not None and now + view.left_s > until + _RENEWED_S:
            whose = view.holder.words if view.holder else "another process"
            raise ConfigurationError(
                f"the broker is {own.address}, and that of {whose}, which leads, is {theirs.address}",
                next_step="configure the same `broker` for all that share the database; to go on with another one, stop those"
                " that stand by, then start the leader with it",
            )
        until = now + view.left_s if until is None else until
        await anyio.sleep(_LOOK_S)
