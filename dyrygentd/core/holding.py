"""What holds a node whose dependencies let it go."""

from collections.abc import Container

from dyrygentd.core.graph import Graph
from dyrygentd.core.notes import Hold, HoldReason


def hold_for(graph: Graph, node: int, on_hold: Container[int], now: float, *, is_child: bool) -> Hold | None:
    """Return what holds a node from now on; None if it is ready.

    Args:
        on_hold: Nodes that an operator holds.
        is_child: It is done by a workflow of its own, or goes on with one that its task has added.
    """
    signature = graph.signatures[node]
    if is_child:
        return Hold(HoldReason.OPERATOR if node in on_hold else HoldReason.CHILD)
    if signature is None:
        policy = graph.policy(node)
        return Hold(HoldReason.GATE) if policy.is_gate else Hold(HoldReason.TIME, now + policy.sleep_s)
    until = max(signature.eta_at, now + signature.countdown_s if signature.countdown_s > 0 else 0.0)
    if until > now:
        return Hold(HoldReason.TIME, until)
    return Hold(HoldReason.OPERATOR) if node in on_hold else None
