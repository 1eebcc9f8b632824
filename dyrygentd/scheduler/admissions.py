"""What became of a submission, and what its submitter is told of that."""

from typing import Any, NamedTuple

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.series import Admission, words_of


class Taken(NamedTuple):
    """What became of a submission.

    Attributes:
        workflow_id: Of the workflow that it made, or of the one that there was.
        is_new: Whether it made one.
        admission: What was decided, if it is one of a series.
    """

    workflow_id: str
    is_new: bool
    admission: Admission | None = None


def answer_to(definition: Definition, workflow_id: str, admission: Admission | None = None) -> wire.Submitted:
    """Return what somebody is told whose workflow was taken in."""
    graph = definition.graph
    return wire.Submitted(
        id=workflow_id,
        name=definition.name,
        tasks=graph.task_count,
        created=True,
        task_id=graph.task_ids[graph.output] or None if graph.output is not None else None,
        **fields_of(definition, admission),
    )


def fields_of(definition: Definition, admission: Admission | None) -> dict[str, Any]:
    """Return what somebody is told of what was decided about a submission of a series."""
    if admission is None or definition.series is None:
        return {}
    return {
        "decided": admission.word.value,
        "reason": words_of(definition.series.name, admission),
        "going": admission.going,
        "ended": list(admission.ended),
    }
