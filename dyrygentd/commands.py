"""Commands on nodes as people paste them: whatever a node is called, its name is no option and no other command."""

import re
from collections.abc import Sequence
from shlex import quote
from typing import Final

#: Where it stands before names that follow ``--``; in a name it means nothing.
_FORCED: Final = re.compile(r"(dyrygentctl \S+ \S+) --force(?= -- )")


def command_on(verb: str, workflow_id: str, names: Sequence[str], *, force: bool = False) -> str:
    """Return ``dyrygentctl retry ID a b``; what begins with a dash comes behind ``--``, after which nothing is an option."""
    flag, nodes = " --force" if force else "", " ".join(map(quote, names))
    if any(name.startswith("-") for name in names):
        return f"dyrygentctl {verb} {workflow_id}{flag} -- {nodes}"
    return f"dyrygentctl {verb} {workflow_id} {nodes}{flag}"


def without_force(command: str) -> str:
    """Return a command of `command_on` as it is without ``force``."""
    found = _FORCED.match(command)
    return command.removesuffix(" --force") if found is None else found[1] + command[found.end() :]
