"""What all commands stand on: the session with its client, how things are told, and with which exit status a command ends.

Data goes to stdout, words to stderr. What costs time to import (rich, the client, a canvas) is imported inside functions, so
that help and completion answer at once.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from dyrygentd.cli import complaints
from dyrygentd.cli.loading import LoadedCommands
from dyrygentd.errors import (
    BackendUnsupported,
    ConfigurationError,
    DaemonUnreachable,
    DyrygentError,
    Fenced,
    NotOnDiskYet,
    RemoteError,
)

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Client, Handle
    from dyrygentd.client.ways import Way

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
NOT_YET: Final = 4
"""What was asked for is not on disk yet, and will be done as soon as the daemon can write."""
FENCED: Final = 5
"""Another process has taken over the database of a daemon, or a copy of it."""
SKIPPED: Final = 6
"""Nothing was created, since another run of the series goes on."""
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


@dataclass(slots=True)
class Session:
    """What the options before the command say.

    Attributes:
        socket: A path, or ``ssh://…``.
    """

    socket: str | None
    is_json: bool
    _client: "Client | None" = field(default=None, repr=False)
    _way: "Way | None" = field(default=None, repr=False)

    def client(self) -> "Client":
        """Return the client; another version of the daemon, or one that does not lead, is told on stderr."""
        from dyrygentd.client.sync import Client

        if self._client is None:
            self._client = Client(self.way(), warn=lambda message: say(f"warning: {message}"), note=say)
        return self._client

    def way(self) -> "Way":
        """Return the one way to the daemon, which all that the command does goes; ssh may ask a person, but no script."""
        from dyrygentd.client.ways import find_way

        if self._way is None:
            self._way = find_way(self.socket, asks=sys.stdin.isatty() and sys.stderr.isatty())
            click.get_current_context().find_root().call_on_close(self._way.close)
        return self._way

    def handle(self, reference: str, *, with_result: bool = False) -> "Handle":
        """Return the handle for an id, a unique prefix, a name or ``@latest``, with the view that was read for it."""
        with self._meant(reference):
            return self.client().handle(reference, with_result=with_result)

    def summary(self, reference: str, *, limit: int) -> "wire.Summary":
        """Return what is to be known of a workflow that is named in the same ways."""
        with self._meant(reference):
            return self.client().summary(reference, limit=limit)

    @contextmanager
    def _meant(self, reference: str) -> Iterator[None]:
        """Exit if a reference names nothing, or too much."""
        # Paths of requests are made of it, and these would lead elsewhere; an empty shell variable is the usual reason.
        if reference in ("", ".", ".."):
            raise click.BadParameter(
                f"'{reference}' names no workflow; `dyrygentctl list` shows those that are known", param_hint="REF"
            )
        try:
            yield
        except RemoteError as error:
            if error.code != "ambiguous-reference":
                raise
            from dyrygentd.cli.names import ambiguous

            words, step = ambiguous(self.client(), error)
            fail(words, next_step=step, error=error)


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
            fail(error.message, next_step=error.next_step, status=status_of(error), error=error)
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
    """Lists its commands by what they are for, and imports one when it is run.

    Args:
        sections: ``{title: {name: "module:attribute"}}``, in the order in which they are listed.
        room: The package of these modules.
    """

    def __init__(self, *, sections: Mapping[str, Mapping[str, str]], room: str, **settings: Any) -> None:
        homes = {name: home for names in sections.values() for name, home in names.items()}
        super().__init__(commands=LoadedCommands(homes, room=room), **settings)
        self._sections = sections

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run; what a shell asks for while words are typed is answered by our forms of click's scripts."""
        if any(name.endswith("_COMPLETE") for name in os.environ):
            from dyrygentd.cli.completion import register

            register()
        return super().main(*args, **settings)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command; while a shell completes words, its parameters offer what they take."""
        found = super().get_command(context, name)
        if found is not None and context.resilient_parsing:
            from dyrygentd.cli.completion import attach

            attach(name, found)
        return found

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=80)) for name in names])


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


def say_health(health: "wire.Health | wire.Statistics | wire.Summary") -> None:
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

    say(f"not yet: {of}{visible(error.message)}\nnext: {visible(error.next_step)}")


def confirm(question: str) -> None:
    """Ask whether to go on; exit if not."""
    try:
        is_sure = click.confirm(question, err=True)
    except click.Abort:
        say("\nnothing was changed")
        sys.exit(INTERRUPTED)
    if not is_sure:
        say("nothing was changed")
        sys.exit(FAILED)


def status_of(error: DyrygentError) -> int:
    """Return the exit status that goes with an error."""
    if isinstance(error, DaemonUnreachable):
        return UNREACHABLE
    if isinstance(error, Fenced):
        return FENCED
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
