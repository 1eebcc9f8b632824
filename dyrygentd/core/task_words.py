"""What is told of a task beside its state: how attempts before went, what its worker said last, where it failed, when."""

import json
import re
from datetime import UTC, datetime
from typing import Final

from dyrygentd.core import outcomes
from dyrygentd.core.engine import Engine
from dyrygentd.core.words import counted, span
from dyrygentd.core.workflow import RunningWorkflow

#: Clocks that differ by less are nothing to remark.
_CLOCKS_S: Final = 5.0
#: The innermost frame in the cause of a failure, see `dyrygentd.transport.meta`.
_PLACE: Final = re.compile(r" in ([^\s()]+ \([^()]+:\d+\))")


def words_of_clocks(workflow: RunningWorkflow, node: int) -> str:
    """Remark that a worker found a task expired before its time by this host's clock."""
    signature, ended_at = workflow.graph.signatures[node], workflow.nodes.finished_at[node]
    if signature is None or not workflow.errors.get(node, "").startswith("revoked: expired"):
        return ""
    expires_at = signature.expires_at
    if not expires_at and workflow.attempts.dispatched_at[node]:
        given = json.loads(signature.options).get("expires")
        expires_at = workflow.attempts.dispatched_at[node] + given if isinstance(given, int | float) else 0.0
    early_s = expires_at - ended_at
    if early_s < _CLOCKS_S:
        return ""
    return f"; by this host's clock that was {span(early_s)} too early: its worker's clock is ahead, or its time zone is wrong"


def words_of_place(workflow: RunningWorkflow, node: int) -> str:
    """Tell the function, file and line where a task failed, as far as its traceback was stored."""
    found = _PLACE.search(workflow.fingerprints.get(node, ""))
    return f" [in {found[1]}]" if found else ""


def words_of_report(workflow: RunningWorkflow, node: int) -> str:
    """Tell a worker's last word about a task in flight."""
    state = workflow.attempts.reported.get(node)
    if not state:
        return ""
    if node not in workflow.attempts.next_tries:
        return f", a worker reported {state}"
    at, worker = workflow.attempts.next_tries[node]
    return f", {worker or 'a worker'} reported {state}, next try at {datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"


def words_of_failures(workflow: RunningWorkflow, node: int) -> str:
    """Tell of a node in flight how the attempts before this one have ended."""
    failures = workflow.attempts.failures.get(node, 0)
    if not failures:
        return ""
    error = f"{workflow.errors.get(node, '')}{words_of_place(workflow, node)}"
    return f", after {counted(failures, 'failure')} in a row, the last with {error}"


def words_of_redeliveries(engine: Engine, workflow: RunningWorkflow, node: int) -> str:
    """Tell how often the broker gave a task out again, and how often it may."""
    times = workflow.attempts.redelivered.get(node, 0)
    if not times:
        return ""
    most, whose = outcomes.redeliveries_max(workflow, node, engine.limits.redeliveries_max)
    bound = f", {most} allowed by {whose}" if most else ", without a bound: `redeliveries_max` is not set"
    return f", given out again {times} {'time' if times == 1 else 'times'} by the broker{bound}"
