"""`dyrygentctl explain` without a reference: what is wrong, and what waits for a person, in all workflows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.session import Session, echo_json
from dyrygentd.cli.times import localized

if TYPE_CHECKING:
    from dyrygentd import wire

#: Of each kind; a screen has room for no more. In JSON there is room for all that the daemon gives.
_SHOWN_MAX: Final = 5
_IN_JSON_MAX: Final = 100

_TITLES: Final = {
    "problem": "keeps the daemon from its work",
    "person": "waits for a person",
    "stuck": "is stuck, or takes long",
    "failed": "keeps failing, or has failed in the last 24 hours",
    "notice": "has happened",
    "busy": "is full",
}
_COLOURS: Final = {"problem": "red", "person": "yellow", "stuck": "red", "failed": "red"}
#: ``{what was left out: command that shows it}``.
_REST: Final = {
    "person lost": "dyrygentctl list --state running --all",
    "person gate": "dyrygentctl list --state running --all",
    "person hold": "dyrygentctl list --state running --all",
    "person paused": "dyrygentctl list --state paused --all",
    "stuck": "dyrygentctl --json explain",
    "busy": "dyrygentctl stats --all",
    "failed keeps-failing": "dyrygentctl --json explain",
    "failed failing": "dyrygentctl list --state running --all",
    "failed failed": "dyrygentctl list --state failed --all",
}


def show_overview(session: Session) -> None:
    """Ask what is wrong, and print it: the answer first, then what somebody can do something about, with commands to paste."""
    client = session.client()
    if session.is_json:
        echo_json(client.explain(most=_IN_JSON_MAX))
        return
    overview = client.explain(most=_SHOWN_MAX)
    click.echo(click.style(_shown(overview.verdict), bold=True))
    for line in _lines(overview):
        click.echo(line)


def _lines(overview: "wire.Overview") -> Iterator[str]:
    kind = ""
    for item in overview.items:
        if item.kind != kind:
            if kind:
                yield from _rest(overview, kind)
            kind = item.kind
            yield f"\n{click.style(_TITLES.get(kind, kind), fg=_COLOURS.get(kind), bold=True)}"
        name = f"{item.name}, below {item.root_name}" if item.root_name else item.name
        of = f"{render.inline(name)}  " if item.workflow and kind != "busy" else ""
        waits = f" ({render.inline(name)})" if item.workflow and kind == "busy" else ""
        yield f"  {of}{_shown(item.text)}{waits}"
        for number, step in enumerate(item.next_steps):
            yield f"    {'  or' if number else 'next'}: {_shown(step)}"
    if kind:
        yield from _rest(overview, kind)


def _rest(overview: "wire.Overview", kind: str) -> Iterator[str]:
    """Say what of a kind is not shown, and where it is."""
    for left_out, count in overview.left_out.items():
        if left_out.split(" ")[0] != kind:
            continue
        what = left_out.removeprefix(kind).strip()
        number = "more" if left_out == "failed failed" else f"{count:,} more"
        yield f"  and {number}{f' ({what})' if what else ''}: {_REST.get(left_out, 'dyrygentctl --json explain')}"


def _shown(text: str) -> str:
    return localized(render.inline(text))
