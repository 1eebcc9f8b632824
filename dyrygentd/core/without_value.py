"""Tasks that have done their work, and whose value nobody could be given: told by the words that are kept of them."""

import re
from typing import Final

#: How the error of such a node begins, if the value came and cannot be carried.
WITHOUT_VALUE: Final = "the task succeeded, but its value cannot be passed on"
#: As `dyrygentd.transport.meta` says of a result that is there and cannot be read.
_UNREAD: Final = "the stored result cannot be decoded"
#: As a workflow says of a value that is longer than any may be.
_TOO_LARGE: Final = r"the value has \d+ bytes of JSON, the limit is"
#: What workers store if they could not write what the task returned.
_UNSTORED: Final = r"EncodeError: "
_WORDS: Final = re.compile(f"{re.escape(WITHOUT_VALUE)}|{_UNREAD}|{_TOO_LARGE}|{_UNSTORED}")


def is_without_value(error: str) -> bool:
    """Tell whether a node has failed for its value alone: another attempt would do the work again, and end in the same way."""
    return _WORDS.match(error) is not None
