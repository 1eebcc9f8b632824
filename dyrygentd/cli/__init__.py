"""`dyrygentctl`: see and control workflows from a shell. The home of click and rich.

`show` and `explain` look, `verbs` changes something, `control` waits; `render` knows what things look like, and all of them stand
on `session`. Here the commands are put together, and nothing below imports this.
"""

import os
import stat
from typing import Final

import click

from dyrygentd import __version__
from dyrygentd.cli.session import Session, SortedCommands

#: ``{title: {command: where it is}}``; a command is imported when it is run.
_SECTIONS: Final = {
    "Look": {
        "list": "listing:list_workflows",
        "show": "show:show",
        "explain": "explain:explain",
        "graph": "graph:graph",
        "timeline": "timeline:timeline",
        "report": "report:report",
        "diff": "diff:diff",
        "events": "explain:events",
        "export": "explain:export",
        "stats": "stats:stats",
        "ui": "ui:ui",
    },
    "Submit": {
        "submit": "submit:submit",
        "backfill": "backfill:backfill",
        "import": "submit:take_over",
        "lint": "lint:lint",
        "schema": "submit:schema",
        "adopt": "adopt:adopt",
    },
    "Wait": {"watch": "control:watch", "wait": "control:wait"},
    "Change workflows": {
        name: f"verbs:{name.replace('-', '_')}" for name in ("cancel", "pause", "resume", "retry", "set-priority")
    },
    "Change nodes": {name: f"verbs:{name}" for name in ("hold", "release", "skip", "rerun")},
}


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


def _host(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what is no address of a host."""
    if value is None:
        return None
    if context.params.get("socket") is not None:
        raise click.UsageError("-H and --socket both name a daemon: give one of them")
    if not value.startswith("ssh://"):
        raise click.BadParameter(f"'{value}' is no address of a host; did you mean 'ssh://{value}'?")
    return value


@click.group(
    cls=SortedCommands,
    sections=_SECTIONS,
    room=__name__,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""REF is a workflow's id, a unique prefix of it, its name, @latest, or key:KEY. Exit status: 0 fine, 1 failed or
    refused, 2 usage, 3 daemon unreachable, 4 not on disk yet, 6 skipped since another
    run of the series goes on. With --json data is one document on stdout (of `watch` and
    `events --follow` one a line), and an error is one line on stderr: a problem document (RFC 9457) with `exit_status`.

    Completion is installed by `dyrygentd install-units`; elsewhere:
    eval "$(_DYRYGENTCTL_COMPLETE=bash_source dyrygentctl)" (or zsh_source, fish_source).""",
)
@click.option(
    "--socket",
    metavar="PATH",
    callback=_socket,
    # Read before -H, wherever it stands.
    is_eager=True,
    help="The daemon's socket [default: $DYRYGENTD_SOCKET, the system's, yours].",
)
@click.option(
    "-H",
    "--host",
    metavar="ssh://HOST",
    callback=_host,
    help="The daemon of another host, by your ssh: ssh://[USER@]HOST[:PORT][/PATH/TO/SOCKET] [default: $DYRYGENTD_HOST].",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON; fields that are empty are left out.")
@click.version_option(__version__, prog_name="dyrygentctl")
@click.pass_context
def main(context: click.Context, socket: str | None, host: str | None, is_json: bool) -> None:
    """See and control the workflows of dyrygentd."""
    context.obj = Session(socket if host is None else host, is_json)
