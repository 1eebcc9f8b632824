"""`dyrygentctl submit`: hand over a canvas from a module, or a definition file; `schema`: what such a file may hold."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from uuid import uuid4

import click

from dyrygentd.cli import apps, documents, render, slots
from dyrygentd.cli.session import INTERRUPTED, SKIPPED, Session, command, echo_json, fail, pairs, say
from dyrygentd.cli.target import is_document, read_definition
from dyrygentd.errors import RemoteError
from dyrygentd.progress import ProgressBar

if TYPE_CHECKING:
    from dyrygentd.client.forms import Progress
    from dyrygentd.client.sync import Handle

#: Submissions that take less are over before anybody has read about them.
_MOMENT_S: Final = 0.5
_LONG_BYTES: Final = 4_000_000


@click.command(short_help="Submit a canvas or a definition file.")
@click.argument("target")
@click.option("--key", help="Submit only once: a known key answers with the workflow that has it.")
@click.option(
    "--slot",
    type=slots.Slot(),
    metavar="WHEN|TIMER",
    help="For which time it is, or the last one of a timer (*.timer): it goes into the key, so that it is submitted once.",
)
@click.option("--name", help="Name of the workflow.")
@click.option("--series", metavar="NAME", help="Series whose runs follow each other, such as backup/gra1.")
@click.option(
    "--if-running",
    type=click.Choice(["allow", "skip", "queue_one", "cancel_old"]),
    help="While another run of the series goes on: begin beside it, do nothing (exit status 6), wait for its end, or cancel it.",
)
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="Label; may be repeated.")
@click.option(
    "-p", "--parameter", "given", metavar="K=V", multiple=True, callback=pairs, help="Value of a parameter; may be repeated."
)
@click.option(
    "--parameters",
    "values_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON or YAML file with values of parameters; -p goes first.",
)
@click.option("--show-parameters", "is_asking", is_flag=True, help="List the parameters of the file, and submit nothing.")
@click.option("--app", "app_name", metavar="MODULE:APP", help="The Celery app, loaded first as a worker loads it.")
@click.option(
    "--on-override",
    type=click.Choice(["call", "ignore"]),
    default="call",
    show_default=True,
    help="An `apply_async` that somebody has overridden.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Check it without a daemon, print the definition, and submit nothing.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the end; exit 1 unless it succeeded.")
@click.option("--watch", "is_watching", is_flag=True, help="The same, and show the progress.")
@command
def submit(
    session: Session,
    target: str,
    key: str | None,
    slot: str | None,
    name: str | None,
    series: str | None,
    if_running: str | None,
    labels: dict[str, str],
    given: dict[str, str],
    values_file: Path | None,
    is_asking: bool,
    app_name: str | None,
    on_override: Any,
    is_dry: bool,
    is_waiting: bool,
    is_watching: bool,
) -> None:
    """Submit TARGET: module:object, a definition file (*.json, *.yaml), or - for JSON on stdin.

    The object is a canvas, a dyrygentd Workflow, or a function that returns one: -p gives its arguments.
    """
    from dyrygentd.cli import control

    app = apps.loaded(app_name) if app_name else None
    is_sent = not (is_asking or is_dry)
    key = key if slot is None else slots.key_of(key, slot, stem=slots.stem_of(target))
    fields: Any = {"key": key, "name": name, "labels": labels or None, "series": series, "if_running": if_running}
    values = {**(_read_values(values_file) if values_file else {}), **given}
    what, parameters = read_definition(target, values, app=app, calls_overrides=is_sent and on_override == "call")
    if is_asking:
        _show_parameters(session, target, what)
        return
    fields["parameters"] = parameters if slot is None else slots.with_slot(what, parameters, slot)
    if is_dry:
        with documents.naming(target, what):
            _print_definition(session, what, **fields)
        return
    # What an app has to say was asked, and told, above.
    fields["on_override"] = on_override if app is None and is_document(what) else "ignore"
    handle = _submitted(session, target, what, fields, is_followed=is_waiting or is_watching)
    if is_watching or is_waiting:
        (control.follow if is_watching else control.wait_for_end)(session, handle)


def _submitted(session: Session, target: str, what: Any, fields: Any, *, is_followed: bool) -> "Handle":
    """Submit, and say what became of it; exit if another run of the series goes on."""
    try:
        with documents.naming(target, what), _shown_if_long() as progress:
            handle = session.client().submit(what, progress=progress, **fields)
    except KeyboardInterrupt:
        fail("interrupted; it may have been taken", next_step="`dyrygentctl list` shows whether it was", status=INTERRUPTED)
    submitted = handle.submitted
    assert submitted is not None
    is_skipped = submitted.decided == "skipped"
    if session.is_json and (is_skipped or not is_followed):
        echo_json(submitted)
    elif not session.is_json:
        click.echo(submitted.id)
        _say_what_became(handle)
    if is_skipped:
        sys.exit(SKIPPED)
    return handle


def _say_what_became(handle: "Handle") -> None:
    submitted = handle.submitted
    assert submitted is not None
    if submitted.decided == "skipped":
        say(f"{submitted.reason}; nothing was created")
        say(f"next: dyrygentctl show {submitted.id}")
    elif submitted.created:
        say(f"submitted '{render.inline(submitted.name)}', {render.number(submitted.tasks, 'task')}")
        if submitted.reason:
            say(submitted.reason)
    else:
        say_known(handle)


def say_known(handle: "Handle") -> None:
    """Say that a workflow was there already, how it stands, and what one would look at."""
    from dyrygentd.cli.show import next_command

    view = handle.status()
    say(f"known already, nothing was created; it is {view.state}")
    say(f"next: {next_command(view)}")


@click.command("import", short_help="Take over a workflow from another daemon.")
@click.argument("file", type=click.File("rb"))
@command
def take_over(session: Session, file: BinaryIO) -> None:
    """Take over the workflow in FILE, or - for stdin: what `dyrygentctl export` of another daemon printed.

    It must have finished there, or be paused with nothing in flight. It keeps its id, states, values and journal, and comes
    paused: cancel it where it came from, then resume it here.

    \b
    Example: dyrygentctl export 1a2b | dyrygentctl --socket /run/other.sock import -
    """

    document, name = file.read(), getattr(file, "name", "-")
    try:
        with documents.naming(name, document):
            handle = session.client().take_over(document)
    except RemoteError as error:
        if error.status >= 500 or error.code in ("forbidden", "not-on-disk-yet"):
            raise
        where = documents.named(name)
        step = error.next_step or "give what `dyrygentctl export` has printed, all of it"
        fail(f"cannot import {where}: {error.message}", next_step=step, error=error)
    submitted, view = handle.submitted, handle.status()
    assert submitted is not None
    if session.is_json:
        echo_json(submitted)
        return
    click.echo(submitted.id)
    step = "" if view.is_finished else f"; cancel it where it came from, then `dyrygentctl resume {submitted.id}`"
    say(f"imported '{render.inline(submitted.name)}', {submitted.tasks} tasks, {view.state}{step}")


@click.command()
@command
def schema(session: Session) -> None:
    """Print the JSON schema of definition files, for editors and checks. No daemon is needed."""
    from dyrygentd import wire

    click.echo(json.dumps(wire.definition_schema(), indent=None if session.is_json else 2))


@contextmanager
def _shown_if_long() -> "Iterator[Progress]":
    """Show on a terminal how far a submission is, if it takes more than a moment."""
    bar, begun, is_long = ProgressBar(), time.monotonic(), False

    def show(what: str, done: int, of: int) -> None:
        nonlocal is_long
        is_long |= of > _LONG_BYTES or time.monotonic() - begun > _MOMENT_S
        if is_long:
            bar(what, done, of)

    try:
        yield show
    finally:
        bar.end()


def _read_values(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in documents.YAML_SUFFIXES:
        values = documents.read_yaml(path)
    else:
        try:
            values = json.loads(documents.read_bytes(path))
        except (ValueError, RecursionError) as error:
            fail(f"'{path}' is no JSON: {error}", status=2)
    if not isinstance(values, dict):
        fail(f"'{path}' holds no values of parameters", next_step='write {"name": value}', status=2)
    return values


def _show_parameters(session: Session, target: str, what: Any) -> None:
    """Print what may be given with -p."""
    from dyrygentd import wire
    from dyrygentd.cli import render
    from dyrygentd.client.bodies import submission_body

    parameters = wire.parameters_of(submission_body(what)) if is_document(what) else []
    if session.is_json:
        views = [
            {
                "name": each.name,
                "type": each.type,
                "required": each.is_required,
                "default": each.default,
                "description": each.description,
                "choices": each.choices,
            }
            for each in parameters
        ]
        echo_json(views)
    elif not parameters:
        say(f"'{target}' has no parameters")
    else:
        rows = [(each.name, each.type, _default(each), _about(each)) for each in parameters]
        click.echo(render.table(("NAME", "TYPE", "DEFAULT", "DESCRIPTION"), rows))


def _default(parameter: Any) -> str:
    if parameter.is_required:
        return "(required)"
    return parameter.default if isinstance(parameter.default, str) and parameter.default else json.dumps(parameter.default)


def _about(parameter: Any) -> str:
    choices = ", ".join(map(str, parameter.choices or ()))
    return f"{parameter.description}{f' (one of {choices})' if choices else ''}".strip()


def _print_definition(session: Session, what: Any, **given: Any) -> None:
    """Check a definition as the daemon does, and print it with its parameters put in."""
    from dyrygentd import wire
    from dyrygentd.client.bodies import submission_body
    from dyrygentd.core.graph import NODES_MAX

    made: set[str] = set()

    def new_id() -> str:
        task_id = str(uuid4())
        made.add(task_id)
        return task_id

    definition = wire.decode_definition(submission_body(what, **given), nodes_max=NODES_MAX, new_id=new_id)
    document = json.loads(wire.encode_definition(definition))
    for node in document["nodes"]:
        # Made here, they would be the same in each submission of what is printed.
        if not is_document(what) or node.get("task_id") in made:
            node.pop("task_id", None)
    click.echo(json.dumps(document, indent=None if session.is_json else 2))
    say(f"'{render.inline(definition.name)}' can be submitted: {render.number(definition.graph.task_count, 'task')}")
