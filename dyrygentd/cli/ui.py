"""`dyrygentctl ui`: the page, with buttons, in one's own browser."""

import os
import sys
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import click

from dyrygentd.cli.session import Session, command, echo_json, say

_PORT_MAX: Final = 65_535


@click.command()
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--port", type=click.IntRange(1, _PORT_MAX), metavar="N", help="Serve on this port [default: a free one].")
@click.option("--no-open", is_flag=True, help="Open no browser.")
@command
def ui(session: Session, reference: str | None, port: int | None, no_open: bool) -> None:
    """Serve the page with buttons to your browser, until Ctrl-C; with REF it opens at that workflow.

    The address works once, within 10 minutes, and for your user alone; what you do there has your rights, and your name in the
    journal. From another machine: `ssh -L PORT:127.0.0.1:PORT HOST`, as the same user. --json prints {"url": …} and serves.

    \b
    Example: dyrygentctl ui
    Example: dyrygentctl ui @latest --port 8600 --no-open
    """
    from dyrygentd.loopback.server import run

    place = f"#/w/{quote(session.handle(reference).id, safe='')}" if reference is not None else ""
    way = session.way()
    way.open()

    def tell(address: str, port: int) -> None:
        if session.is_json:
            echo_json({"url": address + place, "port": port, "socket": way.name})
        else:
            click.echo(address + place)
            say(f"from another machine: ssh -L {port}:127.0.0.1:{port} {os.uname().nodename}, then open this address there")
            say("it opens once, within 10 minutes; Ctrl-C ends it")
            if not no_open and is_desktop(os.environ):
                _open(address + place)
        sys.stdout.flush()

    run(way, port=port or 0, on_ready=tell, warn=lambda message: say(f"warning: {message}"))


def is_desktop(environ: Mapping[str, str], *, user: int | None = None) -> bool:
    """Tell whether a browser would open before whoever typed the command: a screen of their own, and they are not root."""
    if (os.geteuid() if user is None else user) == 0 or environ.keys() & {"SSH_CONNECTION", "SSH_TTY"}:
        return False
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    """Open a browser beside this process; one that would take over the terminal is none."""
    import webbrowser
    from threading import Thread

    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return
    if type(found) is not webbrowser.GenericBrowser:
        # It may wait for the browser, which may wait for the page.
        Thread(target=found.open, args=(address,), daemon=True).start()
