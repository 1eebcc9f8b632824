"""Where the log of an attempt is: addresses of whatever keeps logs, made from a template of the configuration.

The values are percent-encoded, whatever they are, so none can end its place in the address. What they stand in there may be a
text of a query language, which the reader of the address decodes: characters that would end it become ``_``.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from dyrygentd import wire
from dyrygentd.core.destination import queue_of
from dyrygentd.core.workflow import RunningWorkflow

#: What a template may ask for.
FIELDS: Final = (
    *("task_id", "node", "attempt", "workflow", "workflow_name", "task", "worker", "queue"),
    *("start_ms", "end_ms", "start_iso", "end_iso"),
)
MARGIN_S: Final = 60.0
_FIELD: Final = re.compile(r"\{([^{}]*)\}")
#: A field may be in the path and behind it: in the place of the host a value would choose whom to ask.
_ADDRESS: Final = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(?:[/?#][!-~]*)?")
_LONGEST: Final = 4000
#: Quotes, backslashes, `!` (which escapes in Kibana's addresses) and what cannot be seen.
_ENDS_TEXTS: Final = re.compile(r"""["'`\\!\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]""")
_VALUE_MAX: Final = 500
#: The year 5138.
_AT_MAX: Final = 1e11


def flaw_of(template: str) -> str:
    """Return what is wrong with a template; empty if nothing is."""
    if not _ADDRESS.fullmatch(template):
        return "is no address that begins with http:// or https:// and a host, in printable ASCII"
    if len(template) > _LONGEST:
        return f"has {len(template)} characters, more than {_LONGEST}"
    for name in _FIELD.findall(template):
        if name not in FIELDS:
            return f"asks for '{{{name:.40}}}', which is none of {', '.join(FIELDS)}; a brace of the address itself is %7B or %7D"
    if re.search(r"[{}]", _FIELD.sub("", template)):
        return "has a brace that belongs to no field: one of the address itself is %7B or %7D"
    return ""


class LogLinks:
    """Makes addresses of logs.

    Args:
        templates: ``{beginning of task names: template}``; the longest beginning that fits a task decides.
        margin_s: How much before an attempt and after it is looked at, too: clocks differ, and logs come late.
    """

    def __init__(self, templates: Mapping[str, str], margin_s: float = MARGIN_S) -> None:
        self._templates = sorted(templates.items(), key=lambda pair: len(pair[0]), reverse=True)
        self._margin_s = margin_s

    def __repr__(self) -> str:
        return f"<LogLinks templates={len(self._templates)}>"

    def __bool__(self) -> bool:
        return bool(self._templates)

    def of(self, workflow: RunningWorkflow, node: int, attempt: "wire.AttemptView", now: float) -> str | None:
        """Return where the log of an attempt is; None if nobody has said."""
        signature = workflow.graph.signatures[node]
        task = "" if signature is None else signature.task
        template = next((template for beginning, template in self._templates if task.startswith(beginning)), None)
        if template is None or signature is None:
            return None
        # A clock that was set, or another daemon's export, may say anything.
        since = min(max(0.0, (attempt.started_at or attempt.sent_at) - self._margin_s), _AT_MAX)
        until = min(max(since, (attempt.ended_at or now) + self._margin_s), _AT_MAX)
        values = {
            "task_id": attempt.task_id,
            "node": workflow.graph.names[node],
            "attempt": str(attempt.number),
            "workflow": workflow.workflow_id,
            "workflow_name": workflow.name,
            "task": task,
            "worker": attempt.worker,
            "queue": queue_of(workflow.attempts.destination_of(node)),
            "start_ms": _ms(since),
            "end_ms": _ms(until),
            "start_iso": _iso(since),
            "end_iso": _iso(until),
        }
        return _FIELD.sub(lambda found: _quoted(values[found[1]]), template)

    def add_to(self, workflow: RunningWorkflow, node: int, attempts: "list[wire.AttemptView]", now: float) -> None:
        """Have views of attempts tell where their logs are."""
        if self._templates:
            for attempt in attempts:
                attempt.logs = self.of(workflow, node, attempt, now)

    def of_last(self, workflow: RunningWorkflow, node: int, now: float) -> str | None:
        """Return where the log of a node's last attempt is; None if it has none, or nobody has said."""
        attempts = wire.views_of_attempts(workflow, node) if self._templates else []
        return self.of(workflow, node, attempts[-1], now) if attempts else None

    def add_to_causes(self, workflow: RunningWorkflow, causes: "wire.Causes", now: float) -> "wire.Causes":
        """Have causes tell where the log of their first node is; return them."""
        if self._templates:
            for cause in causes.causes:
                number = workflow.graph.number(cause.nodes[0])
                cause.logs = None if number is None else self.of_last(workflow, number, now)
        return causes


def _quoted(value: str) -> str:
    """Return a value as it may stand anywhere behind the host."""
    value = _ENDS_TEXTS.sub("_", value[:_VALUE_MAX])
    # Of dots alone an address would leave out what is before them.
    return quote("_" * len(value) if value.strip(".") == "" else value, safe="")


def _ms(at: float) -> str:
    return str(round(1000 * at))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
