"""`dyrygentd`: serve (also without a command), broker, demo, check-config, install-units.

The settings are imported only by the commands that have them: they bring along the scheduler, for which `--version`, `--help` and
the demo should not wait.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any

import click

from dyrygentd import __version__, versions
from dyrygentd.cli import care, check, completion, manual, units
from dyrygentd.cli import main as dyrygentctl
from dyrygentd.cli.demo import demo
from dyrygentd.cli.session import FAILED, USAGE, Commands, fail, say, status_of
from dyrygentd.errors import ConfigurationError, DyrygentError, NotThereYet


class _Configured(click.Command):
    """A command with one flag for each setting."""

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        return [*_setting_flags(), *super().get_params(context)]


@cache
def _setting_flags() -> tuple[click.Option, ...]:
    from dyrygentd.daemon import config

    flags = [click.Option(["--config"], type=click.Path(path_type=Path), metavar="PATH", help="TOML file.")]
    for setting in config.settings():
        choices, kind = setting.metadata["choices"], config.kind_of(setting)
        flags.append(
            click.Option(
                ["--" + setting.name.replace("_", "-")],
                type=click.Choice(choices)
                if choices
                else _Place(path_type=Path, readable=False)
                if kind is Path
                else _type_of(kind),
                metavar=setting.metadata["metavar"] or None,
                help=setting.metadata["about"] + _shown_default(setting.default),
            )
        )
    return tuple(flags)


class _Place(click.Path):
    """A path; a URL is left as it is."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return value if isinstance(value, str) and "://" in value else super().convert(value, parameter, context)


def _type_of(kind: type) -> type:
    """Return what click makes of a flag; a table comes as text."""
    return kind if kind in (int, float) else str


def _shown_default(default: Any) -> str:
    return "" if default in (None, MISSING) else f" [default: {default}]"


def _loaded(flags: Mapping[str, Any], **where: Any) -> Any:
    from dyrygentd.daemon import config

    given = {name: value for name, value in flags.items() if value is not None}
    return config.load(given.pop("config", None), given, **where)


class _ServeByDefault(Commands):
    """Runs `serve` if no command is named, so that ``dyrygentd --broker URL`` works."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        own = {"-h", "--help", "--version"}
        if not arguments or (arguments[0].startswith("-") and arguments[0] not in own):
            arguments = ["serve", *arguments]
        return super().parse_args(context, arguments)


@click.group(
    cls=_ServeByDefault,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Each setting is also a key of the TOML file and a variable: --in-flight-max, in_flight_max, DYRYGENTD_IN_FLIGHT_MAX.",
)
@click.version_option(__version__, prog_name="dyrygentd")
@click.pass_context
def main(context: click.Context) -> None:
    """Run workflows of thousands of tasks on existing Celery workers. Without a command: serve."""
    # Before the command's own flags are made, for which much is imported that may be too old to be.
    if context.invoked_subcommand in ("check-config", "demo"):
        versions.refuse_older()


class _Serve(_Configured):
    """Flags that are wrong are told to the clients, too, for whom systemd has started it."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            from dyrygentd.daemon import fatal
            from dyrygentd.daemon.waiting import WaitingClients

            refused = ConfigurationError(error.format_message(), next_step="look at `ExecStart=` of its unit")
            with WaitingClients() as waiting:
                waiting.answer(str(refused), next_step=refused.next_step)
            if fatal.tell(refused, fatal.format_of({}, os.environ, None)):
                sys.exit(USAGE)
            raise


@main.command(cls=_Serve)
def serve(**flags: Any) -> None:
    """Serve until SIGTERM or Ctrl-C. SIGHUP reads the configuration again."""
    from dyrygentd.daemon import config, fatal
    from dyrygentd.daemon.waiting import WaitingClients

    form = fatal.format_of(flags, os.environ, flags.get("config") or config.default_file(os.environ))
    try:
        with WaitingClients() as waiting:
            versions.refuse_older()
            loaded = _loaded(flags)
            from dyrygentd.daemon.run import run

            try:
                run(loaded.configuration, lambda: _loaded(flags).configuration, on_ready=waiting.let_go)
            except NotThereYet as error:
                if error.setting:
                    error.next_step = f"{error.next_step}, or change {loaded.where_set(error.setting)}"
                raise
    except Exception as error:
        is_told = fatal.tell(error, form)
        if isinstance(error, NotThereYet):
            # It may pass, and the service is to be started again then; a wrong configuration has another status.
            sys.exit(FAILED) if is_told else fail(error.message, next_step=error.next_step, status=FAILED)
        if not is_told:
            raise
        sys.exit(status_of(error) if isinstance(error, DyrygentError) else FAILED)


@main.command(cls=_Configured)
def broker(**flags: Any) -> None:
    """Keep the broker of a daemon that has none configured, until SIGTERM or Ctrl-C.

    A Redis-compatible server on a Unix socket beside the database. The daemon starts one by itself, which ends with it; this one
    stays when the daemon is restarted or killed, so that tasks go on. Where a broker or an app is configured it ends at once.
    """
    configuration = _loaded(flags).configuration
    from dyrygentd.daemon.broker import run, why_not

    reason = why_not(configuration)
    if reason:
        say(reason)
    else:
        run(configuration)


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """Read arguments of `serve` as flags."""
    with serve.make_context("serve", arguments) as context:
        return {name: value for name, value in context.params.items() if value is not None}


def helps() -> dict[str, str]:
    """Return ``{place below the prefix: text}``: man pages of both programs, and what completes words in shells."""
    pages = manual.pages({"dyrygentd": main, "dyrygentctl": dyrygentctl})
    return {f"share/man/man1/{name}": page for name, page in pages.items()} | completion.scripts(dyrygentctl)


for each in care.commands(_Configured, lambda flags: _loaded(flags).configuration):
    main.add_command(each)
main.add_command(check.command(_Configured, _loaded, _parsed))
main.add_command(demo)
main.add_command(units.command(helps))


if __name__ == "__main__":
    main()
