"""Where a signature goes: its queue, for counting, and its destination, as messages are told."""

from collections.abc import Callable
from typing import Final, Protocol

from dyrygentd.core.node_spec import Signature
from dyrygentd.core.workflow import RunningWorkflow

#: Signatures whose queue is kept in mind.
_ROUTES_KEPT_MAX: Final = 1000
#: Bytes of an input that a router may be shown in a turn.
_ROUTED_INPUT_MAX: Final = 64 * 1024


class Routing(Protocol):
    """Where messages go: the dispatcher's part, see `dyrygentd.ports.Dispatcher`."""

    @property
    def looks_at_input(self) -> bool:
        """Whether that may depend on more than the signature."""

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        """Return where a message goes, as text (`dyrygentd.core.destination`); empty if that cannot be told."""


class Routes:
    """Queue and destination of signatures. Guards: the dispatcher is asked once for each of the few that workflows repeat.

    Args:
        queue_of: Tells to which queue a signature goes.
        routing: Tells where messages go; without it that is not remembered.

    Attributes:
        known: ``{signature: ((task, queue), destination)}``; look here first, and ask `of` for what is missing.
        is_by_input: Whether a destination may depend on more than the signature.
    """

    __slots__ = ("_queue_of", "_routing", "is_by_input", "known")

    def __init__(self, queue_of: Callable[[Signature], str], routing: Routing | None) -> None:
        self._queue_of = queue_of
        self._routing = routing
        self.is_by_input = False
        self.known: dict[Signature, tuple[tuple[str, str], str]] = {}

    def of(self, signature: Signature) -> tuple[tuple[str, str], str]:
        """Return a task's name and queue, and where it is sent."""
        route = self.known.get(signature)
        if route is None:
            if len(self.known) >= _ROUTES_KEPT_MAX:
                self.known.clear()
            destination = ""
            if self._routing is not None:
                self.is_by_input = self._routing.looks_at_input
                destination = self._routing.destination_of(signature, None)
            route = self.known[signature] = (signature.task, self._queue_of(signature)), destination
        return route

    def task_of(self, workflow: RunningWorkflow, node: int) -> tuple[str, str]:
        """Return a node's task and queue."""
        signature = workflow.graph.signatures[node]
        return ("", "") if signature is None else (self.known.get(signature) or self.of(signature))[0]

    def destination_for(self, workflow: RunningWorkflow, node: int, signature: Signature) -> str:
        """Ask a router that is code where a node is to be sent, with all that it may look at."""
        given = workflow.input_text(node)
        if self._routing is None or (given is not None and len(given) > _ROUTED_INPUT_MAX):
            return ""  # Whoever publishes finds out and tells, without holding up the turn.
        return self._routing.destination_of(signature, None if given is None else bytes(given))
