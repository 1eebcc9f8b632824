"""`dyrygentd`: serve (also without a command), demo, check-config, install-units.

The settings are imported only by the commands that have them: they bring along the scheduler and the HTTP side, for which
`--version`, `--help` and the demo should not wait.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any

import click

from dyrygentd import __version__
from dyrygentd.cli import Commands, care
from dyrygentd.cli.demo import demo
from dyrygentd.cli.units import install_units


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
                else click.Path(path_type=Path, readable=False)
                if kind is Path
                else _type_of(kind),
                metavar=setting.metadata["metavar"] or None,
                help=setting.metadata["about"] + _shown_default(setting.default),
            )
        )
    return tuple(flags)


def _type_of(kind: type) -> type:
    """Return what click makes of a flag; a table comes as text."""
    return kind if kind in (int, float) else str


def _shown_default(default: Any) -> str:
    return "" if default in (None, MISSING) else f" [default: {default}]"


def _loaded(flags: Mapping[str, Any]) -> Any:
    from dyrygentd.daemon import config

    given = {name: value for name, value in flags.items() if value is not None}
    return config.load(given.pop("config", None), given)


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
def main() -> None:
    """Run workflows of thousands of tasks on existing Celery workers. Without a command: serve."""


@main.command(cls=_Configured)
def serve(**flags: Any) -> None:
    """Serve until SIGTERM or Ctrl-C. SIGHUP reads the configuration again."""
    configuration = _loaded(flags).configuration
    from dyrygentd.daemon.run import run

    run(configuration, lambda: _loaded(flags).configuration)


@main.command("check-config", cls=_Configured)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.option("--online", "is_online", is_flag=True, help="Also try the app, broker, result backend, database and socket.")
def check_config(is_json: bool, is_online: bool, **flags: Any) -> None:
    """Print the effective configuration and where each value comes from; secrets are masked.

    With --online the exit status is 1 if something of it cannot be used.
    """
    loaded = _loaded(flags)
    tried: list[Any] = []
    if is_json:
        from dyrygentd import wire

        rows: dict[str, Any] = {each.name: {"value": each.shown, "origin": each.origin} for each in loaded.origins}
        if is_online:
            tried = [*_tried(loaded.configuration)]
            rows["online"] = [each._asdict() for each in tried]
        click.echo(wire.encode(rows).decode())
    else:
        width = max(len(origin.name) for origin in loaded.origins)
        for origin in loaded.origins:
            click.echo(f"{origin.name:<{width}} = {origin.shown}  # {origin.origin}")
        for each in _tried(loaded.configuration) if is_online else ():
            tried.append(each)
            sign = click.style("ok", fg="green") if each.is_well else click.style("FAILED", fg="red")
            click.echo(f"{each.what}: {sign}: {each.words}", err=True)
    if not all(each.is_well for each in tried):
        raise SystemExit(1)


def _tried(configuration: Any) -> Iterator[Any]:
    from dyrygentd.daemon.check import check

    return check(configuration)


for each in care.commands(_Configured, lambda flags: _loaded(flags).configuration):
    main.add_command(each)
main.add_command(demo)
main.add_command(install_units)


if __name__ == "__main__":
    main()
