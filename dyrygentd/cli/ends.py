"""The ends of workflows, as they come: no person did them, so that they are in no journal."""

import time
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import render

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Client

#: Ends that are told of at one time; of more the newest submissions are.
_ENDS_MAX: Final = 500
#: An end is on disk a moment after its time; what had to wait longer for the disk is not told.
_LATE_S: Final = 10.0
_BY: Final = "dyrygentd"


class Ends:
    """Tells each end once, of all workflows or of one, from when it was made."""

    def __init__(self, client: "Client", *, only: str | None = None) -> None:
        self._client = client
        self._only = only
        self._begun_at = self._newest = time.time()
        self._told: dict[str, float] = {}

    def new(self) -> "list[wire.JournalView]":
        """Return the ends since the last look, as entries of a journal, oldest first."""
        from dyrygentd import wire

        since = max(self._begun_at, self._newest - _LATE_S)
        found = []
        for view in self._client.list(ended_since=since, by_end=True, limit=_ENDS_MAX):
            at = view.finished_at
            # One that was tried again has another end.
            if at is None or self._told.get(view.id) == at:
                continue
            self._told[view.id] = at
            self._newest = max(self._newest, at)
            if self._only in (None, view.id):
                counts = click.unstyle(render.counts(view.counts))
                detail = "; ".join(filter(None, [f"'{view.name}' after {render.took(view)}: {counts}", view.error]))
                found.append(wire.JournalView(at=at, verb=view.state, by=_BY, detail=detail, workflow=view.id))
        self._told = {each: at for each, at in self._told.items() if at >= self._newest - 2 * _LATE_S}
        return sorted(found, key=lambda entry: entry.at)
