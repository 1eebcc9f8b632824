"""All that is to be known of a workflow at one look, in one answer however large it is: `dyrygentctl show` prints it."""

import json

import msgspec
from msgspec import Raw, Struct

from dyrygentd.errors import BadRequest
from dyrygentd.wire.encoding import decode
from dyrygentd.wire.estimates import EstimateView
from dyrygentd.wire.plain import View
from dyrygentd.wire.views import Causes, JournalView, NodeView, WorkflowView


class Summary(Struct, View, omit_defaults=True):
    """A workflow, and of its nodes those that matter most, so many of a kind at most as were asked for.

    Attributes:
        workflow: With its result.
        causes: The failures by cause.
        failed, blocked: The first nodes of each state.
        under_way: What is held, in flight or about to be tried again: first what waits for a person, then what a worker has
            begun, then what waits for a worker, the oldest first.
        estimate: How long it goes on, if it has not finished; older daemons do not tell.
        decided: Who paused or cancelled it, when and why.
        problems: What keeps the daemon from its work.
        notices: What else people should know of the daemon.
    """

    workflow: WorkflowView
    causes: Causes
    failed: list[NodeView] = []
    blocked: list[NodeView] = []
    under_way: list[NodeView] = []
    decided: JournalView | None = None
    estimate: EstimateView | None = None
    problems: list[str] = []
    notices: list[str] = []


def decode_summary(body: bytes) -> Summary:
    """Read a summary; raises as `decode` does. Its result is taken as `decode_view` takes it."""
    try:
        return decode(body, Summary)
    except BadRequest as error:
        try:
            document = json.loads(body)
            result = json.dumps(document["workflow"].pop("result")).encode()
            summary = msgspec.convert(document, Summary)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise error from None
        summary.workflow.stored_result = Raw(result)
        return summary
