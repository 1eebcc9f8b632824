"""`dyrygentctl`: see and control workflows from a shell. The home of click and rich.

`show` and `explain` look, `verbs` changes something, `control` waits; `render` knows what things look like.

Data goes to stdout, words to stderr. What costs time to import (rich, the client, a canvas) is imported inside functions, so
that help and completion answer at once.
"""

import functools
import os
import re
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from dyrygentd import __version__
from dyrygentd.cli import complaints
from dyrygentd.errors import (
    BackendUnsupported,
    ConfigurationError,
    DaemonUnreachable,
    DyrygentError,
    NotOnDiskYet,
    RemoteError,
)

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Client, Handle

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
NOT_YET: Final = 4
"""What was asked for is not on disk yet, and will be done as soon as the daemon can write."""
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
        try:
            return self.client().handle(reference)
        except RemoteError as error:
            if error.code != "ambiguous-reference":
                raise
            from dyrygentd.cli.names import refuse_ambiguous

            refuse_ambiguous(self.client(), error)


class Commands(click.Group):
    """A group of commands that reports our errors with their next step, and in its exit status."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; what is wrong with them is told without what would steer a terminal."""
        arguments = list(args[1] if len(args) > 1 else kwargs.get("args", ()))
        is_json = complaints.wants_json(arguments)
        try:
            context = super().make_context(*args, **kwargs)
        except click.ClickException as error:
            _complain(error, is_json=is_json)
        complaints.note_form(context, is_json=is_json)
        return context

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.ClickException as error:
            _complain(error, is_json=complaints.is_json())
        except NotOnDiskYet as error:
            say_not_yet(error)
            sys.exit(NOT_YET)
        except DyrygentError as error:
            fail(str(error), next_step=error.next_step, status=status_of(error), error=error)
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(INTERRUPTED)
        except OSError as error:
            words = complaints.unwritable(error)
            if not words:
                raise
            fail(words, next_step="look at where the output goes")


def _complain(error: click.ClickException, *, is_json: bool) -> NoReturn:
    """Raise an error of usage in printable form, or write it as JSON and exit."""
    harmless = _harmless(error)
    if not is_json:
        raise harmless from None
    complaints.write(complaints.usage(harmless))
    sys.exit(harmless.exit_code)


def _harmless(error: click.ClickException) -> click.ClickException:
    """Return an error of usage that repeats arguments in printable form: a script may have them from anywhere."""
    from dyrygentd.cli.render import visible

    context = error.ctx if isinstance(error, click.NoSuchOption) else None
    if isinstance(error, click.NoSuchOption) and context is not None and context.parent is not None:
        root = context.find_root()
        if any(error.option_name in parameter.opts for parameter in root.command.params):
            words = f"{error.option_name} stands before the command: {root.info_name} {error.option_name} … {context.info_name}"
            return click.UsageError(words, ctx=context)
    for name in ("message", "param_hint", "option_name", "command_name"):
        given = getattr(error, name, None)
        if isinstance(given, str):
            setattr(error, name, visible(given))
    return error


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
    3 daemon unreachable, 4 not on disk yet. With --json data is one document on stdout (of `watch` and `events --follow` one a
    line), and an error is one line on stderr: a problem document (RFC 9457) with `exit_status`.

    Completion is installed by `dyrygentd install-units`; elsewhere:
    eval "$(_DYRYGENTCTL_COMPLETE=bash_source dyrygentctl)" (or zsh_source, fish_source).""",
)
@click.option(
    "--socket", metavar="PATH", callback=_socket, help="The daemon's socket [default: $DYRYGENTD_SOCKET, the system's, yours]."
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON; fields that are empty are left out.")
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
    return click.option("--json", "is_json", is_flag=True, help="Print JSON; fields that are empty are left out.")(
        click.pass_obj(run)
    )


def echo_json(value: object) -> None:
    """Print JSON, or bytes that are JSON already, with what would steer a terminal written in its other way."""
    if not isinstance(value, bytes):
        from dyrygentd import wire

        value = wire.encode(value)
    click.echo(_STEERING.sub(_escaped, value.decode(errors="surrogatepass")))


#: Everything but printable ASCII and the end of a line; most of it is printable too.
_STEERING: Final = re.compile(r"[^ -~\n]")


def _escaped(found: "re.Match[str]") -> str:
    character = found[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def say(words: str) -> None:
    """Tell a person something."""
    click.echo(words, err=True)


def say_problems(problems: Sequence[str]) -> None:
    """Tell what keeps the daemon from its work."""
    from dyrygentd.cli.render import visible
    from dyrygentd.cli.times import localized

    for problem in problems:
        say(f"problem: {localized(visible(problem))}")


def say_health(health: "wire.Health | wire.Statistics") -> None:
    """Tell what keeps the daemon from its work, and what else is to be known."""
    from dyrygentd.cli.render import visible
    from dyrygentd.cli.times import localized

    say_problems(health.problems)
    for notice in health.notices:
        say(f"notice: {localized(visible(notice))}")


def fail(words: str, *, next_step: str = "", status: int = FAILED, error: DyrygentError | None = None) -> NoReturn:
    """Tell what went wrong and what to do, and exit.

    Args:
        error: What was raised, if anything was; with ``--json`` its facts are told, too.
    """
    from dyrygentd.cli.render import visible

    if complaints.is_json():
        complaints.write(complaints.document_of(words, next_step=next_step, status=status, document=_document_of(error)))
        sys.exit(status)
    say(f"error: {visible(words)}")
    if next_step:
        say(f"next: {visible(next_step)}")
    sys.exit(status)


def _document_of(error: DyrygentError | None) -> "dict[str, Any] | None":
    from dyrygentd import wire

    if error is None:
        return None
    return error.document if isinstance(error, RemoteError) else wire.problem_of(error)


def say_not_yet(error: NotOnDiskYet, *, of: str = "") -> None:
    """Tell that something will be done, and is not on disk yet. It is no error, so it is not called one."""
    from dyrygentd.cli.render import visible

    say(f"not yet: {of}{visible(error)}\nnext: {visible(error.next_step)}")


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
from dyrygentd.cli import adopt, completion, control, explain, graph, lint, show, submit, verbs  # noqa: E402

completion.attach(main)

__all__ = ["adopt", "completion", "control", "explain", "graph", "lint", "main", "show", "submit", "verbs"]
