"""`dyrygentctl backfill`: submit a definition once for each slot of a range, some at a time; run again, it goes on."""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import documents, render, slots
from dyrygentd.cli.session import FAILED, INTERRUPTED, Session, command, echo_json, fail, pairs, say
from dyrygentd.cli.target import is_document, read_definition
from dyrygentd.cli.times import Moment, Span

if TYPE_CHECKING:
    from dyrygentd.client.sync import Handle

#: Between two looks at those that run.
_LOOK_S: Final = 1.0
#: More of them are a mistake of units.
_SLOTS_MAX: Final = 100_000


@click.command(short_help="Submit a definition for each slot of a range.")
@click.argument("target")
@click.option(
    "--from", "since", type=Moment(), required=True, metavar="WHEN", help="The first slot: 2026-11-01, 2026-11-01T02:00Z."
)
@click.option("--to", "until", type=Moment(), required=True, metavar="WHEN", help="Slots before this time.")
@click.option("--every", "every_s", type=Span(), required=True, metavar="SPAN", help="From one slot to the next: 15m, 1h, 1d.")
@click.option("--key", help="Key of a slot, with {slot} in it [default: the file's name and the slot].")
@click.option("--series", metavar="NAME", help="Series of the runs, if the definition names none.")
@click.option("--in-flight", type=click.IntRange(1, 100), default=1, show_default=True, help="So many run at one time.")
@click.option("-p", "--parameter", "given", metavar="K=V", multiple=True, callback=pairs, help="Value of a parameter.")
@click.option("--dry-run", "is_dry", is_flag=True, help="List the slots with their keys, and submit nothing.")
@command
def backfill(
    session: Session,
    target: str,
    since: float,
    until: float,
    every_s: float,
    key: str | None,
    series: str | None,
    in_flight: int,
    given: dict[str, str],
    is_dry: bool,
) -> None:
    """Submit TARGET, as `submit` takes it, once for each slot from --from on and before --to, oldest first.

    Each has the slot in its key, so that none runs twice: run again after an interruption, what is known already is passed over.
    A parameter `slot` of the definition gets the slot, such as 2026-11-01T01:00:00Z. Days are those of the calendar here.

    While another run of its series goes on, the next slot waits for its end, unless --in-flight allows more.

    \b
    Example: dyrygentctl backfill report.yaml --from 2026-11-01 --to 2026-12-01 --every 1d
    """
    if every_s < 1:
        raise click.UsageError("--every is less than a second")
    if until <= since:
        raise click.UsageError("--to is not later than --from: there is no slot in between")
    if (until - since) / every_s > _SLOTS_MAX:
        raise click.UsageError(f"that is more than {_SLOTS_MAX:,} slots: give a shorter range, or a longer --every")
    keys = {
        slot: slots.key_of(key, slot, stem=slots.stem_of(target))
        for slot in map(slots.text_of, slots.between(since, until, every_s))
    }
    if is_dry:
        _list(session, keys)
        return
    what, parameters = read_definition(target, given)
    run = _Backfill(session, target, what, parameters, series=series, in_flight=in_flight)
    try:
        for slot, its_key in keys.items():
            run.submit(slot, its_key)
        run.wait(0)
    except KeyboardInterrupt:
        fail("interrupted; what was submitted goes on", next_step="the same command goes on with the rest", status=INTERRUPTED)
    run.tell_end()


def _list(session: Session, keys: Mapping[str, str]) -> None:
    if session.is_json:
        echo_json([{"slot": slot, "key": key} for slot, key in keys.items()])
        return
    click.echo(render.table(("SLOT", "KEY"), [*keys.items()]))
    say(f"{render.number(len(keys), 'slot')}; nothing was submitted")


def _series_of(what: Any) -> str | None:
    """Return the series that a definition names itself."""
    from dyrygentd.client.bodies import submission_body

    if not is_document(what):
        return getattr(getattr(what, "series", None), "name", None)
    document = json.loads(submission_body(what))
    return document.get("series") if isinstance(document, dict) else None


class _Backfill:
    """Submits slots one after the other. Guards: at most ``in_flight`` of them are unfinished, as far as this command knows."""

    def __init__(
        self, session: Session, target: str, what: Any, parameters: Mapping[str, Any], *, series: str | None, in_flight: int
    ) -> None:
        self._session = session
        self._client = session.client()
        self._target, self._what, self._parameters = target, what, parameters
        self._in_flight = in_flight
        own = _series_of(what)
        self._series = None if own else series
        # A run of somebody else's is waited for, and no slot is left out or takes another one's place.
        self._if_running = None if not (own or series) else "skip" if in_flight == 1 else "allow"
        self._running: dict[str, Handle] = {}
        self._ends: dict[str, dict[str, Any]] = {}

    def submit(self, slot: str, key: str) -> None:
        """Submit a slot as soon as there is a place."""
        self.wait(self._in_flight - 1)
        values = slots.with_slot(self._what, self._parameters, slot)
        while True:
            with documents.naming(self._target, self._what):
                handle = self._client.submit(
                    self._what,
                    key=key,
                    series=self._series,
                    if_running=self._if_running,
                    parameters=values,
                    on_override="call" if is_document(self._what) else "ignore",
                )
            submitted = handle.submitted
            assert submitted is not None
            if submitted.decided != "skipped":
                break
            say(f"{slot}: waits for run {submitted.id[:8]} of its series")
            handle.wait()
        self._ends[slot] = {"slot": slot, "key": key, "id": handle.id, "state": "running", "created": submitted.created}
        self._running[slot] = handle
        if submitted.created:
            say(f"{slot}: submitted, {handle.id}")
        self._look(slot)

    def wait(self, most: int) -> None:
        """Wait until no more than so many are unfinished."""
        while len(self._running) > most:
            time.sleep(_LOOK_S)
            for slot in [*self._running]:
                self._look(slot)

    def _look(self, slot: str) -> None:
        view = self._running[slot].status()
        self._ends[slot]["state"] = view.state
        if view.is_finished:
            del self._running[slot]
            known = "" if self._ends[slot]["created"] else ", was known already"
            say(f"{slot}: {view.state}{known}, {view.id}")

    def tell_end(self) -> None:
        """Tell what became of all slots, and exit."""
        states = [each["state"] for each in self._ends.values()]
        if self._session.is_json:
            echo_json([*self._ends.values()])
        bad = len(states) - states.count("succeeded")
        say(f"{states.count('succeeded'):,} of {render.number(len(states), 'slot')} succeeded")
        if bad:
            first = next(each["id"] for each in self._ends.values() if each["state"] != "succeeded")
            say(f"next: dyrygentctl explain {first}")
            raise SystemExit(FAILED)
