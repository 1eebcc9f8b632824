"""Task ids that signatures inside signatures bring along: of callbacks, and of what `celery.map` and its kind run.

A worker publishes those, under the id that they name, and stores their results under it.
"""

import json
from collections.abc import Iterator
from typing import Final

from dyrygentd.core.graph import Graph
from dyrygentd.core.nested import is_carrier, nested_in
from dyrygentd.core.node_spec import Signature

#: What stands in JSON text that has an option of that name, or may have one in other letters.
_MARKS: Final = (b"task_id", b"\\u")


def nested_ids(graph: Graph) -> dict[str, int]:
    """Return ``{task id: the first node in which it stands}``."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    for node, signature in enumerate(graph.signatures):
        # Large workflows repeat few shapes, and most have no options.
        if signature is None or id(signature) in seen or (signature.options == b"{}" and not is_carrier(signature.task)):
            continue
        seen.add(id(signature))
        for task_id in _ids_in(signature):
            found.setdefault(task_id, node)
    return found


def _ids_in(signature: Signature) -> Iterator[str]:
    is_carrying = is_carrier(signature.task)
    texts = (signature.options, signature.args, signature.kwargs) if is_carrying else (signature.options,)
    if not any(mark in text for text in texts for mark in _MARKS):
        return
    options = json.loads(signature.options)
    args, kwargs = (json.loads(signature.args), json.loads(signature.kwargs)) if is_carrying else (None, None)
    for nested in nested_in(signature.task, args, kwargs, options):
        task_id = nested.options.get("task_id")
        if task_id is not None:
            yield task_id if isinstance(task_id, str) else json.dumps(task_id)
