"""`dyrygentd`: serve (also without a command), demo, check-config."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dyrygentd import __version__
from dyrygentd.cli import Commands
from dyrygentd.cli.demo import demo


def _configured(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each setting, and the loaded configuration instead of them."""
    from dyrygentd.daemon import config

    @functools.wraps(function)
    def run(config_path: Path | None, **flags: Any) -> None:
        extra = {name: flags.pop(name) for name in list(flags) if name not in names}
        given = {name: value for name, value in flags.items() if value is not None}
        function(config.load(config_path, given), **extra)

    names = {setting.name for setting in config.settings()}
    decorated = run
    for setting in reversed(config.settings()):
        choices = setting.metadata["choices"]
        kind = config.kind_of(setting)
        decorated = click.option(
            "--" + setting.name.replace("_", "-"),
            type=click.Choice(choices) if choices else click.Path(path_type=Path) if kind is Path else kind,
            metavar=setting.metadata["metavar"] or None,
            help=setting.metadata["about"] + (f" [default: {setting.default}]" if setting.default is not None else ""),
        )(decorated)
    return click.option(
        "--config", "config_path", type=click.Path(path_type=Path), metavar="PATH", help="TOML file [default: $DYRYGENTD_CONFIG]."
    )(decorated)


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


@main.command()
@_configured
def serve(loaded: Any) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from dyrygentd.daemon.run import run

    run(loaded.configuration)


@main.command("check-config")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@_configured
def check_config(loaded: Any, is_json: bool) -> None:
    """Print the effective configuration and where each value comes from; secrets are masked."""
    if is_json:
        from dyrygentd import wire

        rows = {origin.name: {"value": origin.shown, "origin": origin.origin} for origin in loaded.origins}
        click.echo(wire.encode(rows).decode())
        return
    width = max(len(origin.name) for origin in loaded.origins)
    for origin in loaded.origins:
        click.echo(f"{origin.name:<{width}} = {origin.shown}  # {origin.origin}")


main.add_command(demo)


if __name__ == "__main__":
    main()
