"""`dyrygentd check-config`: the configuration that this command, or an installed service, would have, and what comes of it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from dyrygentd.cli.session import FAILED, say

#: Of this process's own variables, what a service has too.
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TZ")

Load = Callable[..., Any]


def command(configured: type[click.Command], load: Load, parsed: Callable[[list[str]], dict[str, Any]]) -> click.Command:
    """Make the command.

    Args:
        configured: The class of commands that have the daemon's settings as flags.
        load: Turns flags, an environment and secrets into the configuration, see `dyrygentd.daemon.config.load`.
        parsed: Reads arguments of `serve` as flags.
    """

    @click.command("check-config", cls=configured)
    @click.option("--json", "is_json", is_flag=True, help="Print JSON.")
    @click.option(
        "--online", "is_online", is_flag=True, help="Also try the app, broker, result backend, workers, database, socket."
    )
    @click.option("--instance", metavar="NAME", help="Look at what the service dyrygentd@NAME reads.")
    @click.option("--here", "is_here", is_flag=True, help="Look at what this shell says, although a service is installed.")
    @click.option("--root", type=click.Path(path_type=Path), default="/", hidden=True, help="Where the system is.")
    def check_config(is_json: bool, is_online: bool, instance: str | None, is_here: bool, root: Path, **flags: Any) -> None:
        """Print the effective configuration and where each value comes from; secrets are masked.

        As root, and with --instance, it is what the installed service reads: its unit with drop-ins, its environment files and
        its credentials; the online checks run as its user. Else it is what this command would serve with. It says which one it
        was, and what it could not see. With --online the exit status is 1 if something of it cannot be used.
        """
        from dyrygentd.daemon.in_use import PortHolders

        is_service = instance is not None or not (is_here or flags.get("config") or os.geteuid() != 0)
        view = _view(instance, root) if is_service else None
        holders = PortHolders.look() if is_online else None
        as_root, is_service_user = os.geteuid() == 0, True
        if view is None:
            loaded = load(flags)
        else:
            if is_online:
                is_service_user = _become(view)
            given = {**parsed(view.arguments), **{name: value for name, value in flags.items() if value is not None}}
            loaded = load(given, environ=view.environ, secrets=view.secrets)
        tried: Iterator[Any] = iter(())
        if is_online:
            tried = _tried(view, loaded.configuration, holders, as_root=as_root, may_import=is_service_user)
        is_well = _print_json(view, loaded, tried, is_online=is_online) if is_json else _print_text(view, loaded, tried)
        if not is_well:
            sys.exit(FAILED)

    return check_config


def _view(instance: str | None, root: Path) -> Any:
    """Return the `ServiceView` of the installed service, or of an instance; None if there is none."""
    from dyrygentd.daemon.service_view import view_of

    view = view_of(instance, root)
    if view is None and instance is not None:
        raise click.BadParameter(
            "no dyrygentd@.service is installed; `dyrygentd install-units --write` does that", param_hint="--instance"
        )
    return view


def _become(view: Any) -> bool:
    """Go on as the service: its user, directory and environment, so that what is tried is what it would find.

    Returns:
        Whether it is that user now. If not, no code of that user's may be run: this is root.
    """
    from dyrygentd.daemon.service_view import become

    own = {name: os.environ[name] for name in _KEPT if name in os.environ}
    reason = become(view)
    if reason:
        view.unseen.append(reason)
    os.environ.clear()
    os.environ.update({**own, **view.environ})
    if not reason:
        sys.path[:0] = [path for path in view.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return not reason


def _tried(view: Any, configuration: Any, holders: Any, *, as_root: bool, may_import: bool) -> Iterator[Any]:
    from dyrygentd.daemon.check import Tried, check

    if view is not None and view.unseen:
        yield Tried(
            "what the service reads", False, f"not seen: {'; '.join(view.unseen)}{'' if as_root else '; try it as root (`sudo`)'}"
        )
    yield from check(configuration, holders, may_import=may_import)


def _words_for(view: Any) -> Iterator[str]:
    from dyrygentd.daemon.service_view import unit_of

    if view is not None:
        yield f"this is what {view.unit} reads: {', '.join(view.looked_at)}"
        if view.unseen:
            yield f"not seen: {'; '.join(view.unseen)}"
    else:
        other = unit_of(None)
        beside = "; dyrygentd.service reads its own: `sudo dyrygentd check-config`" if other is not None else ""
        yield f"this is what `dyrygentd serve` would read here, as this user{beside}"


def _print_json(view: Any, loaded: Any, tried: Iterator[Any], *, is_online: bool) -> bool:
    from dyrygentd import wire

    rows: dict[str, Any] = {each.name: {"value": each.shown, "origin": each.origin} for each in loaded.origins}
    found = list(tried)
    if is_online:
        rows["online"] = [each._asdict() for each in found]
    unit, looked_at, unseen = ("", [], []) if view is None else (view.unit, view.looked_at, view.unseen)
    rows["read"] = {"unit": unit, "from": looked_at, "unseen": unseen}
    click.echo(wire.encode(rows).decode())
    return all(each.is_well for each in found)


def _print_text(view: Any, loaded: Any, tried: Iterator[Any]) -> bool:
    for words in _words_for(view):
        say(words)
    width = max(len(origin.name) for origin in loaded.origins)
    for origin in loaded.origins:
        click.echo(f"{origin.name:<{width}} = {origin.shown}  # {origin.origin}")
    is_well = True
    for each in tried:
        is_well = is_well and each.is_well
        sign = click.style("ok", fg="green") if each.is_well else click.style("FAILED", fg="red")
        say(f"{each.what}: {sign}: {each.words}")
    return is_well
