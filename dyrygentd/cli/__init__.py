"""`dyrygentctl`: see and control workflows from a shell. The home of click and rich.

`show` and `explain` look, `verbs` changes something, `control` waits; `render` knows what things look like, and all of them stand
on `session`. Here the commands are put together, and nothing below imports this.
"""

import os
import stat

import click

from dyrygentd import __version__
from dyrygentd.cli import (
    adopt,
    completion,
    control,
    diff,
    explain,
    graph,
    lint,
    listing,
    report,
    show,
    submit,
    timeline,
    ui,
    verbs,
)
from dyrygentd.cli.session import Session, SortedCommands


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
    epilog="""REF is a workflow's id, a unique prefix of it, its name, @latest, or key:KEY. Exit status: 0 fine, 1 failed or
    refused, 2 usage, 3 daemon unreachable, 4 not on disk yet. With --json data is one document on stdout (of `watch` and
    `events --follow` one a line), and an error is one line on stderr: a problem document (RFC 9457) with `exit_status`.

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


main.add_section(
    "Look",
    listing.list_workflows,
    show.show,
    explain.explain,
    graph.graph,
    timeline.timeline,
    report.report,
    diff.diff,
    explain.events,
    explain.export,
    show.stats,
    ui.ui,
)
main.add_section("Submit", submit.submit, submit.take_over, lint.lint, submit.schema, adopt.adopt)
main.add_section("Wait", control.watch, control.wait)
main.add_section("Change workflows", verbs.cancel, verbs.pause, verbs.resume, verbs.retry, verbs.set_priority)
main.add_section("Change nodes", verbs.hold, verbs.release, verbs.skip, verbs.rerun)
completion.attach(main)
