"""The words of states as type checkers know them: ``view.state == "suceeded"`` is an error there.

A client takes whatever word a daemon says, since a newer one may have more: that is why forms do not check them.
"""

from typing import Literal

WorkflowWord = Literal["scheduled", "running", "paused", "succeeded", "failed", "cancelled"]
"""State of a workflow."""

NodeWord = Literal[
    "waiting",
    "held",
    "ready",
    "dispatching",
    "dispatched",
    "retrying",
    "succeeded",
    "failed",
    "blocked",
    "cancelled",
    "skipped",
]
"""State of a node."""

KindWord = Literal["task", "poll", "join", "gate", "sleep", "hook", "workflow"]
"""What a node is."""

HoldWord = Literal["time", "poll", "gate", "operator", "pool", "lost", "retry", "child"]
"""What holds a node."""
