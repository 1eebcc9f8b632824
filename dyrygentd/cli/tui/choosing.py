"""The screen on which a workflow is chosen, of those that have not finished."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input, Static

from dyrygentd.cli.choosing import UNFINISHED
from dyrygentd.cli.tui.lines import WorkflowLine
from dyrygentd.cli.tui.marks import Glyphs
from dyrygentd.cli.tui.rows import Pane, Rows
from dyrygentd.client import patience
from dyrygentd.client.aio import AsyncClient
from dyrygentd.errors import DyrygentError

if TYPE_CHECKING:
    from dyrygentd import wire

SHOWN_MAX: Final = 200
_PAUSE_S: Final = 2.0


class ChooseScreen(Screen[None]):
    """Lists what has not finished, newest first.

    Args:
        chosen: Told what was chosen.
        failed: Told what no waiting helps against.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,ctrl+c", "app.leave", show=False),
        Binding("slash", "find", show=False),
    ]

    def __init__(
        self,
        client: AsyncClient,
        *,
        glyphs: Glyphs,
        chosen: "Callable[[wire.WorkflowView], None]",
        failed: Callable[[DyrygentError], None],
    ) -> None:
        super().__init__()
        self._client, self._chosen, self._failed = client, chosen, failed
        self._views: list[wire.WorkflowView] = []
        self._pane = Pane(Rows(glyphs, name="workflows"), "WORKFLOWS THAT HAVE NOT FINISHED")
        self._find = Input(placeholder="part of a name", id="find", select_on_focus=False)

    def compose(self) -> ComposeResult:
        """Put the parts together."""
        yield self._pane
        yield self._find
        yield Static(Text("Enter watches  / finds  q leaves", style="bold"), id="hints")

    def on_mount(self) -> None:
        """Begin to look."""
        self._find.display = False
        self._pane.rows.focus()
        self.run_worker(self._follow())

    def action_find(self) -> None:
        """Ask for a part of a name."""
        self._find.display = True
        self._find.focus()

    async def _follow(self) -> None:
        while True:
            try:
                self._views = await self._client.list(states=UNFINISHED, limit=SHOWN_MAX)
                self._show()
            except DyrygentError as error:
                if not patience.is_passing(error):
                    self._failed(error)
                self._pane.show_lines([], note=f"reconnecting: {error}")
            await asyncio.sleep(_PAUSE_S)

    def _show(self) -> None:
        wanted = self._find.value.strip().casefold()
        shown = [WorkflowLine(view) for view in self._views if wanted in view.name.casefold()]
        more = f", of the newest {SHOWN_MAX}" if len(self._views) == SHOWN_MAX else ""
        self._pane.show_lines(shown, count=f"{len(shown)}{more}")

    @on(Input.Changed)
    def _find_changed(self) -> None:
        self._show()

    @on(Input.Submitted)
    def _find_submitted(self) -> None:
        self._find.display = bool(self._find.value)
        self._pane.rows.focus()

    @on(Rows.Opened)
    def _opened(self, event: Rows.Opened) -> None:
        line = event.rows.line
        if isinstance(line, WorkflowLine) and event.how != "close":
            self._chosen(line.view)
