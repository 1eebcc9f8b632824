"""What the members of a map are called, and what stands in its list for one that did not succeed."""

import json
from typing import Final

#: Field of what stands in the list of a map in the place of a value that there is not; its value is the member's name.
FAILED: Final = "__failed__"
#: A worker's error may have thousands of characters, and a list may have thousands of these.
_ERROR_MAX: Final = 500


def member_name(map_name: str, label: object) -> str:
    """Return the name of a member: of its item's number, or of its key."""
    return f"{map_name}[{label}]"


def marker_of_failed(name: str, error: str) -> bytes:
    """Return the JSON text that stands in a list in the place of the value of a member that failed."""
    return json.dumps({FAILED: name, "error": error[:_ERROR_MAX]}).encode()
