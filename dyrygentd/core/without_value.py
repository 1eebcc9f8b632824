"""Tasks that have done their work, and whose value nobody could be given: told by the words that are kept of them."""

import re
from typing import Final

#: How the error of such a node begins, if the value came and cannot be carried.
WITHOUT_VALUE: Final = "the task succeeded, but its value cannot be passed on"
#: How it begins if a result is there and cannot be read.
UNREAD: Final = "the stored result cannot be decoded"
#: How it begins if a value is longer than any may be; takes its length, and the limit follows.
TOO_LARGE: Final = "the value has %d bytes of JSON, the limit is"
#: What workers store if they could not write what the task returned.
_UNSTORED: Final = r"EncodeError: "
_WORDS: Final = re.compile("|".join([re.escape(WITHOUT_VALUE), UNREAD, TOO_LARGE.replace("%d", r"\d+"), _UNSTORED]))


def is_without_value(error: str) -> bool:
    """Tell whether a node has failed for its value alone: another attempt would do the work again, and end in the same way."""
    return _WORDS.match(error) is not None
