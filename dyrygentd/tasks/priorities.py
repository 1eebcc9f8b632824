"""Celery's `task_inherit_parent_priority`: with it, a task that another one starts has that one's priority.

Workers do that when they publish the next step of a chain or the body of a chord. Here nobody publishes on behalf of a task, so
priorities are handed down when the definition is made. As Celery 5.7 does it: what directly follows one task has its priority,
whatever it says itself; a chord's body, which follows several, only if neither it nor its class has one. Of a header whose tasks
have different ones, Celery's body has that of the task that happens to end last; here it has the highest.
"""

from collections.abc import Sequence
from dataclasses import replace

from kombu.utils import json

from dyrygentd.core.node_spec import Signature
from dyrygentd.core.options import FROM_APP
from dyrygentd.tasks.known import KnownTasks


class InheritedPriorities:
    """Hands priorities down, in the order in which nodes are told: dependencies first."""

    def __init__(self, known: KnownTasks) -> None:
        self.is_on = known.has_setting("task_inherit_parent_priority")
        self._of_node: list[int | None] = []
        self._is_task: list[bool] = []

    def signature(self, signature: Signature | None, after: Sequence[int]) -> Signature | None:
        """Return the signature of the next node with the priority that it has; ``after`` are the numbers of its dependencies."""
        handed = max((each for number in after if (each := self._of_node[number]) is not None), default=None)
        is_step = len(after) == 1 and self._is_task[after[0]]
        self._is_task.append(signature is not None)
        options = {} if signature is None else json.loads(signature.options)
        own = options.get("priority")
        has_handed = handed is not None and (own is None or is_step)
        self._of_node.append(handed if has_handed else own)
        if signature is None or not has_handed or own == handed:
            return signature
        options["priority"] = handed
        if "priority" in options.get(FROM_APP, ()):
            options[FROM_APP] = [name for name in options[FROM_APP] if name != "priority"]
        text: str = json.dumps(options, allow_nan=False, separators=(",", ":"))
        return replace(signature, options=text.encode())
