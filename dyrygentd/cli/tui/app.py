"""The program around the screens: it begins with one, and ends with how the workflow stood."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.binding import BindingType

from dyrygentd.cli.tui import marks
from dyrygentd.cli.tui.choosing import ChooseScreen
from dyrygentd.cli.tui.view import WatchScreen
from dyrygentd.client.aio import AsyncClient
from dyrygentd.errors import DyrygentError

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.ways import Way

_CSS = """
* { scrollbar-size: 0 0; }
Masthead { height: auto; }
#middle { height: 1fr; }
#left { width: 3fr; }
#right { width: 2fr; padding-left: 1; }
.-wide #left, .-wide #right { width: 1fr; }
.pane { height: 1fr; }
.pane Heading { height: 1; text-style: bold underline; }
.pane:focus-within Heading { text-style: bold reverse; }
.pane Rows { height: 1fr; }
#details { height: 3; }
#hints { height: 1; }
#told { height: auto; max-height: 4; text-style: bold; color: ansi_yellow; }
#find, #why { border: none; height: 1; padding: 0; }
#find { text-style: bold; }
#find, #why { background: ansi_blue; color: ansi_bright_white; }
Question, Reading { align: center middle; }
.dialog { width: 90%; max-width: 100; height: auto; max-height: 90%; padding: 0 1; border: round ansi_bright_blue; }
.-ascii .dialog { border: ascii ansi_bright_blue; }
.dialog Static { height: auto; margin-bottom: 1; }
.dialog Input { margin-bottom: 1; }
.dialog #answer { margin-bottom: 0; }
.tall { height: 90%; }
#read { height: 1fr; }
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a view was ended.

    Attributes:
        view: The workflow as it stood last; None if none was chosen.
        error: What no waiting helped against.
    """

    view: "wire.WorkflowView | None" = None
    error: DyrygentError | None = None


class WatchApp(App[Ended]):
    """Watches one workflow, or lets one be chosen.

    Args:
        socket: As of the client's, or the way of the command that shows it.
        view: The workflow; None to choose one.
        glyphs: What the terminal can show; by default what its locale says.
    """

    CSS = _CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = []

    def __init__(
        self, socket: "str | Way | None", view: "wire.WorkflowView | None", *, glyphs: marks.Glyphs | None = None
    ) -> None:
        super().__init__(ansi_color=True)
        self._glyphs = marks.here() if glyphs is None else glyphs
        self._view = view
        # A screen of one workflow has a line for what is told of one that does not lead.
        self._client = AsyncClient(socket, warn=self._warn, note=self._warn if view is None else None)

    async def on_mount(self) -> None:
        """Show the first screen, in the sixteen colours of the terminal itself."""
        self.theme = "ansi-dark"
        self.set_class(self._glyphs.is_ascii, "-ascii")
        if self._view is not None:
            await self._watch(self._view)
            return
        choose = ChooseScreen(self._client, glyphs=self._glyphs, chosen=self._chose, failed=self._fail)
        await self.push_screen(choose)

    async def on_unmount(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def action_quit(self) -> None:
        """Do as `action_leave`: Textual has a key of its own for this."""
        self.action_leave()

    def action_leave(self) -> None:
        """End; the workflow goes on."""
        watched = [screen.view for screen in self.screen_stack if isinstance(screen, WatchScreen)]
        # The first one is what somebody wanted to watch; the others were opened on the way.
        self.exit(Ended(watched[0] if watched else None))

    def _chose(self, view: "wire.WorkflowView") -> None:
        self.run_worker(self._watch(view))

    async def _watch(self, view: "wire.WorkflowView") -> None:
        await self._push(view, ended=self._end)

    async def _push(self, view: "wire.WorkflowView", *, ended: "Callable[[wire.WorkflowView], None]") -> None:
        handle = await self._client.handle(view)
        screen = WatchScreen(self._client, handle, view, glyphs=self._glyphs, ended=ended, failed=self._fail, go=self._go)
        await self.push_screen(screen)

    def _go(self, workflow_id: str) -> None:
        self.run_worker(self._go_to(workflow_id), exclusive=True, group="go")

    async def _go_to(self, workflow_id: str) -> None:
        """Show a workflow: the screen that has it, or another one above all."""
        screens = [screen for screen in self.screen_stack if isinstance(screen, WatchScreen)]
        if any(screen.view.id == workflow_id for screen in screens):
            while isinstance(self.screen, WatchScreen) and self.screen.view.id != workflow_id:
                await self.pop_screen()
            return
        try:
            view = await self._client.get(workflow_id)
        except DyrygentError as error:
            self._warn(f"{error.message}: {error.next_step}" if error.next_step else error.message)
            return
        # One of them that ends is no reason to leave what it is a part of.
        await self._push(view, ended=lambda view: None)

    def _end(self, view: "wire.WorkflowView") -> None:
        # What failed can be tried again from here, and who reads or types something is not interrupted.
        if view.state != "failed" and isinstance(self.screen, WatchScreen):
            self.exit(Ended(view))

    def _fail(self, error: DyrygentError) -> None:
        self.exit(Ended(error=error))

    def _warn(self, words: str) -> None:
        screen = self.screen
        if isinstance(screen, WatchScreen):
            screen.tell(words)
