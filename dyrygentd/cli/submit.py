"""`dyrygentctl submit`: hand over a canvas from a module, or a definition file."""

import click

from dyrygentd.cli import Session, command, main, pairs, say
from dyrygentd.cli.target import read_definition


@main.command(short_help="Submit a canvas or a definition file.")
@click.argument("target")
@click.option("--key", help="Submit only once: a known key answers with the workflow that has it.")
@click.option("--name", help="Name of the workflow.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="Label; may be repeated.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the end; exit 1 unless it succeeded.")
@click.option("--watch", "is_watching", is_flag=True, help="The same, and show the progress.")
@command
def submit(
    session: Session,
    target: str,
    key: str | None,
    name: str | None,
    labels: dict[str, str],
    is_waiting: bool,
    is_watching: bool,
) -> None:
    """Submit TARGET: module:object, a definition file (*.json, *.yaml), or - for JSON on stdin.

    The object is a canvas, a dyrygentd Workflow, or a function without arguments that returns one.
    """
    from dyrygentd import wire
    from dyrygentd.cli import control

    handle = session.client().submit(read_definition(target), key=key, name=name, labels=labels or None)
    submitted = handle.submitted
    assert submitted is not None
    if session.is_json and not (is_waiting or is_watching):
        click.echo(wire.encode(submitted))
    elif not session.is_json:
        click.echo(submitted.id)
        say(
            f"submitted '{submitted.name}', {submitted.tasks} tasks"
            if submitted.created
            else "known already, nothing was created"
        )
    if is_watching:
        control.follow(session, handle)
    elif is_waiting:
        control.wait_for_end(session, handle, timeout_s=None)
