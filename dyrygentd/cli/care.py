"""`dyrygentd backup`, `restore`, `claim`, `check-db` and `move-store`: care of the database, beside a daemon or without one."""

import functools
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dyrygentd.cli.session import FAILED, say
from dyrygentd.progress import ProgressBar

Settings = Callable[[dict[str, Any]], Any]


def commands(configured: type[click.Command], settings: Settings) -> list[click.Command]:
    """Make the commands.

    Args:
        configured: The class of commands that have the daemon's settings as flags.
        settings: Turns those flags into a configuration.
    """

    @click.command("backup", cls=configured)
    @click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
    @click.option("--force", is_flag=True, help="Replace FILE if it exists.")
    @click.option("--json", "is_json", is_flag=True, help="Print JSON.")
    def backup(file: Path, force: bool, is_json: bool, **flags: Any) -> None:
        """Copy the database to FILE, also while a daemon works on it."""
        from dyrygentd.store import care, choice

        _end_as_by_ctrl_c()
        path = choice.require_file(settings(flags).database, "`pg_dump --schema=NAME --format=custom`, also while a daemon works")
        copied = care.backup(path, file, force=force, progress=functools.partial(ProgressBar(), "copied"))
        _print(
            is_json, {"database": str(path), "copy": str(file), "bytes": copied}, f"copied '{path}' to '{file}', {copied} bytes"
        )

    @click.command("restore", cls=configured)
    @click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
    @click.option("--json", "is_json", is_flag=True, help="Print JSON.")
    def restore(file: Path, is_json: bool, **flags: Any) -> None:
        """Put the copy FILE in the place of the database; no daemon may run on it. What was there is kept beside it."""
        from dyrygentd.store import care, choice

        _end_as_by_ctrl_c()
        path = choice.require_file(settings(flags).database, "`pg_restore` into an empty schema, when no daemon runs")
        kept = care.restore(file, path)
        words = f"'{path}' is what '{file}' was" + (f"; what it was before is in '{kept}'" if kept else "")
        words += (
            "\nthe next start says so, and looks for results in the backend before it sends what the copy takes for undone; what"
            " is stored nowhere, since its result has expired, runs again"
        )
        _print(is_json, {"database": str(path), "copy": str(file), "kept": str(kept) if kept else None}, words)

    @click.command("check-db", cls=configured)
    @click.option("--json", "is_json", is_flag=True, help="Print JSON.")
    def check_db(is_json: bool, **flags: Any) -> None:
        """Look through all of the database, also while a daemon works on it. Exit status 1 if it is damaged."""
        from dyrygentd.store import care, choice

        path = choice.require_file(settings(flags).database, "`pg_amcheck` looks for damage, `check-config --online` at the rest")
        found = care.check(path)
        if is_json:
            click.echo(json.dumps(care.view_of(found)))
        else:
            _print_check(path, found)
        if found.complaints:
            say(f"the database '{path}' is damaged\n{care.next_step(path)}")
            sys.exit(FAILED)
        if not is_json:
            say("no damage was found")

    return [backup, restore, _claim(configured, settings), check_db, _move_store()]


def _move_store() -> click.Command:
    @click.command("move-store")
    @click.argument("source", metavar="FROM")
    @click.argument("target", metavar="TO")
    @click.option(
        "--host-name",
        metavar="NAME",
        help="The daemon's `host_name`: numbers of users in the file are theirs. By default this host.",
    )
    @click.option("--json", "is_json", is_flag=True, help="Print JSON.")
    def move_store(source: str, target: str, host_name: str | None, is_json: bool) -> None:
        """Move all of a database from an SQLite file to PostgreSQL, or from there to a file, while no daemon runs.

        One of FROM and TO is a path, the other one begins with postgresql://. FROM stays as it is, but for a note that keeps
        daemons from it. If this ends early, TO has nothing, and it is done again from the beginning.

        In a file users are numbers; on PostgreSQL, which several hosts may share, those of one host: 1000 becomes 1000@NAME, and
        back.
        """
        from dyrygentd.store import choice

        _end_as_by_ctrl_c()
        moved = choice.move(source, target, host_name=host_name, progress=functools.partial(ProgressBar(), "moved"))
        _print(
            is_json,
            {"from": moved.source, "to": moved.target, "rows": moved.rows},
            f"moved '{moved.source}' to '{moved.target}', {moved.rows} rows; name that as `database` and start the daemon",
        )

    return move_store


def _claim(configured: type[click.Command], settings: Settings) -> click.Command:
    @click.command("claim", cls=configured)
    @click.option("--json", "is_json", is_flag=True, help="Print JSON.")
    def claim(is_json: bool, **flags: Any) -> None:
        """Have the next start take the database over although another daemon has gone on with a copy of it. Stop that one first.

        A daemon that finds that another one works with a copy of its database ends with exit status 5, and is not started again
        until one of the two is chosen. After `restore` this is not needed.
        """
        from dyrygentd.store import choice

        path = settings(flags).database
        choice.claim(path)
        words = f"the next start takes '{path}' over; another daemon with a copy of it publishes nothing from then on, and ends"
        _print(is_json, {"database": str(path)}, words)

    return claim


def _end_as_by_ctrl_c() -> None:
    """Have SIGTERM leave nothing half done, as Ctrl-C does: by default a process would end at once, and leave its file."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _print_check(path: Path, found: Any) -> None:
    workflows = ", ".join(f"{number} {state}" for state, number in found.workflows.items()) or "none"
    click.echo(f"database:  {path}, {found.database_bytes} bytes, of which {found.free_bytes} are free")
    click.echo(f"log:       {found.wal_bytes} bytes")
    click.echo(f"schema:    {found.version}")
    click.echo(f"workflows: {workflows}")
    for complaint in found.complaints:
        click.echo(f"damage:    {complaint}")


def _print(is_json: bool, facts: dict[str, Any], words: str) -> None:
    if is_json:
        click.echo(json.dumps(facts))
    else:
        say(words)
