"""What keeps a workflow from beginning, beside its policy."""

from dataclasses import dataclass


@dataclass(slots=True)
class Start:
    """How a workflow comes to begin.

    Attributes:
        early_at: When somebody had it begin before its time, 0 if nobody has.
        behind: The run of its series for whose end it waits; empty if it waits for none.
    """

    early_at: float = 0.0
    behind: str = ""
