"""Named pools: how many tasks of a kind may be in flight at one time, over all workflows.

A pool's size may be given for a pattern (``drain@*``); each name that fits it is a pool of its own. A queue with a limit is a
pool too, which its tasks need not name.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from dyrygentd.core.destination import queue_of as queue_in
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.policy import NodePolicy

QueueOf = Callable[[Signature], str]

#: Before the name of a queue, so that it is not taken for a pool that a node names.
QUEUE_PREFIX = "queue:"


@dataclass(frozen=True, slots=True)
class PoolView:
    """A snapshot of a pool."""

    name: str
    size: int
    used: int
    waiting: int


@dataclass(slots=True)
class _Pool:
    size: int
    waiting: OrderedDict[tuple[str, int], None] = field(default_factory=OrderedDict)


class Pools:
    """Sizes and places. Guards: a pool never has more places taken than its size, unless it was recovered so; a node stands in
    one line at most.

    Args:
        sizes: ``{name or pattern: size}``.
        queue_limits: ``{queue: tasks in flight}``.
        queue_of: Tells to which queue a signature goes; only asked if there are limits.
    """

    def __init__(
        self,
        sizes: Mapping[str, int] | None = None,
        *,
        queue_limits: Mapping[str, int] | None = None,
        queue_of: QueueOf | None = None,
    ) -> None:
        self._sizes = dict(sizes or {})
        self._queue_limits = dict(queue_limits or {})
        self._queue_of = queue_of or (lambda _: "")
        self._used: Counter[str] = Counter()
        self._pools: dict[str, _Pool] = {}
        self._pools_max = _KEPT_MAX
        self._line_of: dict[tuple[str, int], str] = {}
        self._called_by: dict[tuple[str, int], str] = {}

    def __repr__(self) -> str:
        return f"<Pools pools={len(self._pools)} used={self._used.total()}>"

    def __bool__(self) -> bool:
        """Tell whether any task may need a place."""
        return bool(self._sizes or self._queue_limits)

    @property
    def names(self) -> list[str]:
        """The names and patterns that have a size."""
        return sorted(self._sizes)

    def size_of(self, name: str) -> int | None:
        """Return the size of a pool: by its name, else by the first pattern that fits."""
        if name in self._sizes:
            return self._sizes[name]
        return next((size for pattern, size in self._sizes.items() if fnmatchcase(name, pattern)), None)

    def places_of(self, name: str) -> int | None:
        """Return the size of a pool, also of one that is a queue with a limit; None if it has none."""
        if name.startswith(QUEUE_PREFIX):
            return self._queue_limits.get(name.removeprefix(QUEUE_PREFIX))
        return self.size_of(name)

    def needed_by(self, signature: Signature, policy: NodePolicy, destination: str = "") -> tuple[str, ...]:
        """Return the pools of which a task takes a place.

        Args:
            destination: Where its message goes, if that is known better than by the signature.
        """
        needed: tuple[str, ...] = (policy.pool,) if policy.pool else ()
        if self._queue_limits:
            queue = queue_in(destination) if destination else self._queue_of(signature)
            if queue in self._queue_limits:
                needed += (QUEUE_PREFIX + queue,)
        return needed

    def full_one(self, needed: tuple[str, ...]) -> str | None:
        """Return a pool that has no place left."""
        return next((name for name in needed if self._used[name] >= self._pool(name).size), None)

    def take(self, needed: tuple[str, ...]) -> None:
        """Take a place in each."""
        self._used.update(needed)

    def give_back(self, needed: tuple[str, ...]) -> None:
        """Give a place back in each."""
        self._used.subtract(needed)
        for name in needed:
            if not self._used[name]:
                del self._used[name]

    def wait(self, name: str, workflow_id: str, node: int) -> None:
        """Have a node stand in line; one that was called already and came too late stands at its head."""
        place = workflow_id, node
        was_called = self._called_by.pop(place, "") == name
        self.leave(workflow_id, node)
        self._line_of[place] = name
        line = self._pool(name).waiting
        line[place] = None
        if was_called:
            line.move_to_end(place, last=False)

    def leave(self, workflow_id: str, node: int) -> None:
        """Have a node stand in line no more: it was held, skipped, cancelled or dispatched."""
        place = workflow_id, node
        self._called_by.pop(place, None)
        name = self._line_of.pop(place, None)
        if name is not None:
            del self._pools[name].waiting[place]

    @property
    def has_guests(self) -> bool:
        """Tell whether any node stands in line, or was called and has not taken its place."""
        return bool(self._line_of or self._called_by)

    def lines(self) -> Mapping[tuple[str, int], str]:
        """Return ``{(workflow id, node): pool}`` of all who stand in line."""
        return self._line_of

    def is_waited_for(self, name: str) -> bool:
        """Tell whether somebody stands in line."""
        return bool(self._pool(name).waiting)

    def first_in_line(self, name: str) -> tuple[str, int] | None:
        """Return ``(workflow id, node)`` of whoever stands in line longest."""
        return next(iter(self._pool(name).waiting), None)

    def is_callable(self, name: str) -> bool:
        """Tell whether somebody stands in line although there is a place."""
        pool = self._pool(name)
        return bool(pool.waiting) and self._used[name] < pool.size

    def called(self, name: str) -> "list[tuple[str, int]]":
        """Return those at the head of the line, at most as many as there are places; they do not stand in it any more."""
        pool = self._pool(name)
        free = max(0, pool.size - self._used[name])
        places = [pool.waiting.popitem(last=False)[0] for _ in range(min(free, len(pool.waiting)))]
        for place in places:
            del self._line_of[place]
            self._called_by[place] = name
        return places

    def used(self) -> Mapping[str, int]:
        """Return ``{name: places taken}``."""
        return {name: count for name, count in self._used.items() if count}

    def views(self) -> list[PoolView]:
        """Return the pools that somebody uses or waits for."""
        names = {*self._used, *(name for name, pool in self._pools.items() if pool.waiting)}
        return [PoolView(name, self._pool(name).size, self._used[name], len(self._pool(name).waiting)) for name in sorted(names)]

    def _pool(self, name: str) -> _Pool:
        if name not in self._pools:
            if len(self._pools) > self._pools_max:
                self._pools = {kept: pool for kept, pool in self._pools.items() if pool.waiting}
                self._pools_max = max(_KEPT_MAX, 2 * len(self._pools))
            size = self.places_of(name)
            # A pool that has lost its size (the configuration was changed) holds nobody up.
            self._pools[name] = _Pool(_UNLIMITED if size is None else size)
        return self._pools[name]


_UNLIMITED = 1 << 62
#: Pools kept although nobody waits for them; names may come from users without end.
_KEPT_MAX = 1000
