"""`dyrygentctl report`: all that is to be known of a run in one file, to attach to a ticket."""

from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli.session import Session, command, echo_json, fail, say
from dyrygentd.cli.time_left import estimate_of
from dyrygentd.cli.timeline import fetched
from dyrygentd.cli.writing import write_file
from dyrygentd.errors import RemoteError

if TYPE_CHECKING:
    from dyrygentd.cli.report_page import Material
    from dyrygentd.client.sync import Handle

#: Spans of time in the drawing.
_BINS: Final = 150
_OLD: Final = (404, 405)


@click.command(short_help="Write a run into one HTML file, for a ticket.")
@click.argument("reference", metavar="REF")
@click.option("-o", "--output", metavar="FILE", help="Where it is written; - is stdout.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@command
def report(session: Session, reference: str, output: str | None, force: bool) -> None:
    """Write what is known of a workflow into one HTML file: how it stands and how long it goes on, failures by cause, its shape,
    where its time went, and who did what.

    The file needs nothing else, has no script, and at most a megabyte. Of arguments and errors it has what the daemon shows
    to readers, without secrets. --json prints the same as data.

    \b
    Example: dyrygentctl report @latest -o report.html
    """
    if output is None and not session.is_json:
        raise click.UsageError("say where it is to be written: -o FILE")
    material = _gathered(session.handle(reference))
    if session.is_json:
        echo_json({name: getattr(material, name) for name in material.__slots__})
        return
    from dyrygentd.cli.report_page import page

    assert output is not None
    write_file(output, [page(material)], force=force)
    if output != "-":
        say(f"written: {output}")


def _gathered(handle: "Handle") -> "Material":
    """Ask the daemon for all of it."""
    from dyrygentd.cli.report_page import Material

    try:
        workflow = handle.status()
        return Material(
            workflow=workflow,
            fold=handle.fold(),
            timeline=fetched(handle, "", _BINS),
            causes=handle.causes(),
            journal=handle.journal(),
            explanation=handle.explain(),
            estimate=None if workflow.is_finished else estimate_of(handle),
        )
    except RemoteError as error:
        if error.status in _OLD and error.code != "workflow-not-found":
            fail("this daemon is older and folds no workflows", next_step="upgrade and restart the daemon", error=error)
        raise
