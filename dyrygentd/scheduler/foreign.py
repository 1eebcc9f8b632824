"""Tasks that this process cannot be of use to: refused when they are submitted, since later is after their work was done."""

from dyrygentd.core.graph import Definition
from dyrygentd.core.options import RESULT_SERIALIZER
from dyrygentd.errors import BadNode
from dyrygentd.ports import Dispatcher
from dyrygentd.scheduler.archive import in_thread_if_long

_MARK = f'"{RESULT_SERIALIZER}"'.encode()


async def refuse_foreign(definition: Definition, dispatcher: Dispatcher) -> None:
    """Raise `BadNode` for the first node whose result would be read as something else than its worker has written."""
    graph = definition.graph

    def look() -> None:
        known: set[int] = set()
        for node, signature in enumerate(graph.signatures):
            # Equal signatures are one object.
            if signature is None or _MARK not in signature.options or id(signature) in known:
                continue
            known.add(id(signature))
            reason, next_step = dispatcher.refusal_of(signature)
            if reason:
                raise BadNode(graph.names[node], reason, next_step=next_step)

    await in_thread_if_long(look, 10 * len(graph))
