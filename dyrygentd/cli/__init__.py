"""`dyrygentctl`: see and control workflows from a shell. The home of click and rich.

`show` and `explain` look, `verbs` changes something, `control` waits; `render` knows what things look like.

Data goes to stdout, words to stderr. What costs time to import (rich, the client, a canvas) is imported inside functions, so
that help and completion answer at once.
"""

import functools
import os
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from dyrygentd import __version__
from dyrygentd.errors import BackendUnsupported, ConfigurationError, DaemonUnreachable, DyrygentError

if TYPE_CHECKING:
    from dyrygentd.client.sync import Client, Handle

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


@dataclass(slots=True)
class Session:
    """What the options before the command say."""

    socket: str | None
    is_json: bool
    _client: "Client | None" = field(default=None, repr=False)

    def client(self) -> "Client":
        """Return the client; another version of the daemon is told on stderr."""
        from dyrygentd.client.sync import Client

        if self._client is None:
            self._client = Client(self.socket, warn=lambda message: say(f"warning: {message}"))
        return self._client

    def handle(self, reference: str) -> "Handle":
        """Return the handle for an id, a unique prefix, a name or ``@latest``."""
        # Paths of requests are made of it, and these would lead elsewhere; an empty shell variable is the usual reason.
        if reference in ("", ".", ".."):
            raise click.BadParameter(
                f"'{reference}' names no workflow; `dyrygentctl list` shows those that are known", param_hint="REF"
            )
        return self.client().handle(reference)


class Commands(click.Group):
    """A group of commands that reports our errors with their next step, and in its exit status."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except DyrygentError as error:
            fail(str(error), next_step=error.next_step, status=status_of(error))
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(INTERRUPTED)


class SortedCommands(Commands):
    """Lists its commands by what they are for."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        rest = [name for name in self.list_commands(context) if not any(name in names for names in _SECTIONS.values())]
        for title, names in {**_SECTIONS, "More": rest}.items():
            found = [(name, self.commands[name]) for name in names if name in self.commands]
            if found:
                with formatter.section(title):
                    formatter.write_dl([(name, each.get_short_help_str(limit=80)) for name, each in found])


_SECTIONS: Final = {
    "Look": ("list", "show", "explain", "graph", "events", "export", "stats"),
    "Submit": ("submit", "import", "lint", "schema", "adopt"),
    "Wait": ("watch", "wait"),
    "Change workflows": ("cancel", "pause", "resume", "retry", "set-priority"),
    "Change nodes": ("hold", "release", "skip", "rerun"),
}


def _socket(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what can be no socket; one that is not there may be the daemon's fault, which has another exit status."""
    if value is None:
        return None
    try:
        is_socket = stat.S_ISSOCK(os.stat(value).st_mode)
    except (OSError, ValueError):
        is_socket = bool(value)
    if not is_socket:
        raise click.BadParameter(f"'{value}' is no socket")
    return value


@click.group(
    cls=SortedCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""REF is a workflow's id, a unique prefix of it, its name, or @latest. Exit status: 0 fine, 1 failed, 2 usage,
    3 daemon unreachable. Completion: eval "$(_DYRYGENTCTL_COMPLETE=bash_source dyrygentctl)" (or zsh_source, fish_source).""",
)
@click.option(
    "--socket", metavar="PATH", callback=_socket, help="The daemon's socket [default: $DYRYGENTD_SOCKET, the system's, yours]."
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.version_option(__version__, prog_name="dyrygentctl")
@click.pass_context
def main(context: click.Context, socket: str | None, is_json: bool) -> None:
    """See and control the workflows of dyrygentd."""
    context.obj = Session(socket, is_json)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Hand the `Session` to a command as its first argument, and let it take ``--json`` too."""

    def run(session: Session, /, *, is_json: bool, **parameters: Any) -> None:
        session.is_json = session.is_json or is_json
        function(session, **parameters)

    # Keeps the help text, and the options that were declared below this decorator, if any.
    functools.update_wrapper(run, function)
    return click.option("--json", "is_json", is_flag=True, help="Print JSON.")(click.pass_obj(run))


def say(words: str) -> None:
    """Tell a person something."""
    click.echo(words, err=True)


def say_problems(problems: Sequence[str]) -> None:
    """Tell what keeps the daemon from its work."""
    from dyrygentd.cli.render import visible

    for problem in problems:
        say(f"problem: {visible(problem)}")


def fail(words: str, *, next_step: str = "", status: int = FAILED) -> NoReturn:
    """Tell what went wrong and what to do, and exit."""
    from dyrygentd.cli.render import visible

    say(f"error: {visible(words)}")
    if next_step:
        say(f"next: {visible(next_step)}")
    sys.exit(status)


def status_of(error: DyrygentError) -> int:
    """Return the exit status that goes with an error."""
    if isinstance(error, DaemonUnreachable):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigurationError | BackendUnsupported) else FAILED


def pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Read ``k=v`` options."""
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"'{text}' is not of the form k=v")
        found[name] = value
    return found


# The commands register themselves with `main`.
from dyrygentd.cli import adopt, control, explain, graph, lint, show, submit, verbs  # noqa: E402

__all__ = ["adopt", "control", "explain", "graph", "lint", "main", "show", "submit", "verbs"]
