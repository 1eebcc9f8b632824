"""Definition documents, and what could not be read of them or of a canvas."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dyrygentd import wire
from dyrygentd.canvas import encode_value
from dyrygentd.canvas.parts import options_of
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.node_spec import RESERVED_OPTIONS
from dyrygentd.errors import BadNode
from dyrygentd.lint.faults import Fault
from dyrygentd.lint.options import UNREADABLE, faults_of_options
from dyrygentd.lint.report import LintReport
from dyrygentd.lint.written import Task


def read_document(document: Any, tasks: list[Task]) -> Definition:
    """Decode a definition; ``tasks`` is filled for the case that this fails."""
    if isinstance(document, Mapping):
        body = encode_value(document)
    else:
        body = document.encode() if isinstance(document, str) else bytes(document)
    try:
        return wire.decode_definition(body, nodes_max=NODES_MAX, has_good_options=False)
    except BadNode:
        # The form is right, and only the first of what is wrong with the nodes has been told.
        # Python's own decoder gives up on what msgspec reads: deep nesting, and numbers of thousands of digits.
        with suppress(ValueError, RecursionError):
            nodes = enumerate(json.loads(body)["nodes"], start=1)
            tasks.extend(Task(node, None, node.get("name") or f"number {number}") for number, node in nodes)
        raise


def check_unread_tasks(tasks: Sequence[Task], report: LintReport) -> bool:
    """Check the options of all tasks, since the first wrong one keeps the whole from being read.

    Returns:
        Whether one was found that cannot be read.
    """
    is_unreadable = False
    for task in tasks:
        options = options_of(task.what)
        faults = list(faults_of_options(options))
        # In a canvas they are leftovers, in a document somebody wrote them.
        if task.place is None:
            faults += [
                Fault("bad-option", key, f"`{key}` is set by the daemon") for key in sorted(RESERVED_OPTIONS & options.keys())
            ]
        for fault in faults:
            is_unreadable = is_unreadable or fault.code == "serializer-refused" or fault.subject in UNREADABLE
            report.add_fault(fault, task.place, node=task.name)
    return is_unreadable
