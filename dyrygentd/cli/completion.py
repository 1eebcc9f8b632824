"""What the shell offers after TAB: states, workflows, nodes and causes, asked of the daemon; and the scripts for three shells.

Commands need not know of it: their parameters are found by name. Whatever goes wrong offers nothing: who presses TAB wants no
error.
"""

import os
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete, add_completion_class

from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.errors import DyrygentError

if TYPE_CHECKING:
    from dyrygentd.client.sync import Client

Complete = Callable[[click.Context, str], list[CompletionItem]]

#: Longer than an answer takes, shorter than patience.
_TIMEOUT_S: Final = 2.0
#: ssh may have to go a long way; it asks nobody, and ends with the words that are offered.
_FAR_TIMEOUT_S: Final = 5.0
_WORKFLOWS_MAX: Final = 50
_NODES_LOOKED_AT_MAX: Final = 2_000
_NODES_MAX: Final = 100


class WholeFish(FishComplete):
    """fish, with a script that keeps what stands behind a comma: in a list of states, and in what is said of a command."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


_SCRIPTS: Final[dict[str, type[ShellComplete]]] = {
    "share/bash-completion/completions/dyrygentctl": BashComplete,
    "share/zsh/site-functions/_dyrygentctl": ZshComplete,
    "share/fish/vendor_completions.d/dyrygentctl.fish": WholeFish,
}


def attach(name: str, command: click.Command) -> None:
    """Have the parameters of a command offer what they take."""
    for parameter in command.params:
        complete = _complete_of(name, parameter)
        if complete is not None:
            # One place for all of them: what is declared with each option would be the same words twenty times.
            setattr(parameter, "shell_complete", complete)  # noqa: B010 - it is a method, for type checkers


def register() -> None:
    """Have click use our forms of its scripts, also where one is evaluated."""
    add_completion_class(WholeFish)


def scripts(group: click.Group) -> dict[str, str]:
    """Return ``{place below the prefix: script}`` for bash, zsh and fish."""
    made = {}
    for path, shell in _SCRIPTS.items():
        complete = shell(group, {}, "dyrygentctl", "_DYRYGENTCTL_COMPLETE")
        made[path] = complete.source_template % complete.source_vars()
    return made


def _complete_of(command: str, parameter: click.Parameter) -> Complete | None:
    match parameter.name:
        case "reference" | "references":
            return _references
        case "words":
            return _references_then_nodes
        case "node" | "nodes" | "first" | "further":
            return _nodes
        case "name" if command == "show":
            return _nodes
        case "states":
            words = [state.word for state in NodeState] if command == "show" else [state.value for state in WorkflowState]
            return lambda context, incomplete: _listed(words, incomplete)
        case "cause":
            return _causes
        case "section":
            return _sections
        case "target":
            return _files
    return None


def _listed(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Offer words of a list that is separated by commas."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(last) and word not in taken]


def _files(context: click.Context, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _references(context: click.Context, incomplete: str) -> list[CompletionItem]:
    items = [CompletionItem("@latest", help="the newest")] if "@latest".startswith(incomplete) else []
    with suppress(DyrygentError, OSError):
        named = set[str]()
        for view in _client(context).list(limit=_WORKFLOWS_MAX):
            if incomplete and view.id.startswith(incomplete):
                items.append(CompletionItem(view.id, help=f"{_plain(view.name)} {view.state}"))
            if view.name.startswith(incomplete) and view.name not in named and _is_word(view.name):
                named.add(view.name)
                items.append(CompletionItem(view.name, help=view.state))
    return items


def _references_then_nodes(context: click.Context, incomplete: str) -> list[CompletionItem]:
    return (_nodes if context.params.get("words") else _references)(context, incomplete)


def _nodes(context: click.Context, incomplete: str) -> list[CompletionItem]:
    reference = _reference(context)
    items = []
    if reference:
        with suppress(DyrygentError, OSError):
            nodes = islice(_client(context).handle(reference).nodes(page=1000), _NODES_LOOKED_AT_MAX)
            fitting = (node for node in nodes if node.name.startswith(incomplete) and _is_word(node.name))
            items = [CompletionItem(node.name, help=node.state) for node in islice(fitting, _NODES_MAX)]
    return items


def _causes(context: click.Context, incomplete: str) -> list[CompletionItem]:
    reference = _reference(context)
    items = []
    if reference:
        with suppress(DyrygentError, OSError):
            causes = _client(context).handle(reference).causes().causes
            items = [CompletionItem(each.id, help=_plain(each.cause)) for each in causes if each.id.startswith(incomplete)]
    return items


def _sections(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Offer the boxes of a folded workflow, inside the last one that is complete: a path is typed part by part."""
    reference = _reference(context)
    items = []
    if reference:
        with suppress(DyrygentError, OSError):
            fold = _client(context).handle(reference).fold(incomplete.rpartition("/")[0])
            fitting = (box for box in fold.boxes if box.kind != "node" and box.path.startswith(incomplete))
            items = [CompletionItem(box.path, help=_plain(box.title)) for box in fitting if _is_word(box.path)]
    return items


def _reference(context: click.Context) -> str:
    given: Any = context.params.get("reference") or next(iter(context.params.get("words") or ()), "")
    # Behind an option that still lacks its value click has not read the arguments.
    return given if isinstance(given, str) and given else next(iter(context.args), "")


def _client(context: click.Context) -> "Client":
    from dyrygentd.client.sync import Client
    from dyrygentd.client.ways import HOST_ENVIRONMENT

    given = context.find_root().params
    host = given.get("host") or (None if given.get("socket") else os.environ.get(HOST_ENVIRONMENT))
    return Client(host or given.get("socket"), timeout_s=_FAR_TIMEOUT_S if host else _TIMEOUT_S, warn=lambda _: None)


def _is_word(text: str) -> bool:
    """Tell whether the shell takes a text as it is: what it would have to quote is not offered."""
    return text.isprintable() and shlex.quote(text) == text


def _plain(text: str) -> str:
    # Shells read one item a line, some with a colon after it.
    return "".join(sign if sign.isprintable() else " " for sign in text).replace(":", " ")[:60]
