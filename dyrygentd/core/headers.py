"""Headers of a message that a client may give, and those that Celery's protocol reads, which it may not.

Celery lets the option ``headers`` replace whatever a message says about itself, unchecked. A worker trusts what stands there: one
message whose time limits are no pair of numbers, or whose expiry is no time, ends every worker that takes it, and the one that is
started in its place. Each of these has an option of its own, which is checked, so none is needed as a header.
"""

from collections.abc import Mapping
from typing import Any, Final

#: What a message says about itself: left out of a node's headers, as ever, and refused in those of nested signatures.
OWN_HEADERS: Final = frozenset(
    {"id", "task", "root_id", "parent_id", "group", "retries", "eta", "lang", "ignore_result", "replaced_task_nesting"}
)

_LEAVE_OUT: Final = "leave it out"
#: What else a worker reads, and what to do instead.
_READ_BY_WORKERS: Final = {
    "timelimit": "use the options `time_limit` and `soft_time_limit`",
    "expires": "use the option `expires`",
    "shadow": "use the option `shadow`",
    "argsrepr": "use the option `argsrepr`",
    "kwargsrepr": "use the option `kwargsrepr`",
    "compression": "use the option `compression`",
    "stamped_headers": "use the option `stamped_headers`",
    "stamps": "use the option `stamped_headers`",
    **dict.fromkeys(
        (
            *("args", "kwargs", "callbacks", "errbacks", "chain", "chord", "group_index", "origin", "meth"),
            *("called_directly", "correlation_id", "delivery_info", "headers", "hostname", "is_eager", "logfile", "loglevel"),
            *("properties", "redelivered", "reply_to", "soft_time_limit", "taskset", "time_limit", "utc"),
        ),
        _LEAVE_OUT,
    ),
}
#: What no message gets from a client, however old the definition is.
NEVER_SENT: Final = OWN_HEADERS | _READ_BY_WORKERS.keys()


def flaw_of_headers(headers: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first header that a worker reads, and what to do instead; None if all are a client's own."""
    for name in headers:
        if name in _READ_BY_WORKERS:
            return name, _READ_BY_WORKERS[name]
    return None
