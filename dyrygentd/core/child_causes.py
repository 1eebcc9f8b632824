"""What is said of a node whose workflow did not succeed, as its cause, and where the failure is in the end."""

import re
from typing import Final

from dyrygentd.core.words import without_particulars

#: Followed by the cause of the failure below, however deep: nodes whose workflows failed for different reasons are no one cause.
CHILD_FAILED: Final = "its workflow failed"
CHILD_CANCELLED: Final = "its workflow was cancelled"
#: The same of one that was never there.
CHILD_REFUSED: Final = "its workflow cannot be begun"
#: In the error of a node, the workflows that failed on the way down to what failed first.
_ON_THE_WAY: Final = re.compile(r"its workflow '([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})' (?:failed|was cancelled)")


def cause_of_refusal(error: str) -> str:
    """Return the cause of a node whose workflow cannot be begun: the same for all that differ by names and numbers alone."""
    return f"{CHILD_REFUSED}: {without_particulars(error.removeprefix(CHILD_REFUSED).removeprefix(': '))}"


def cause_above(cause: str) -> str:
    """Return the cause of a node whose workflow failed for this one, which may be that of a deeper one already."""
    if not cause or cause.startswith((CHILD_FAILED, CHILD_CANCELLED, CHILD_REFUSED)):
        return cause or CHILD_FAILED
    return f"{CHILD_FAILED}: {cause}"


def failed_below(cause: str, error: str) -> str:
    """Return the id of the workflow in which the failure is that has failed a node, however deep; empty if its own work failed.

    Args:
        cause, error: Those of the node.
    """
    if not cause.startswith((CHILD_FAILED, CHILD_CANCELLED)):
        return ""
    found = _ON_THE_WAY.findall(error)
    return found[-1] if found else ""
