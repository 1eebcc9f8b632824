"""What stands before the rest until it is answered: a question before something is done, and a text to read."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from dyrygentd.cli.times import localized
from dyrygentd.cli.tui.deeds import Deed
from dyrygentd.cli.tui.marks import Glyphs
from dyrygentd.errors import DyrygentError, NotOnDiskYet

if TYPE_CHECKING:
    from dyrygentd import wire

#: How long a reason may be: as much as anybody types.
_WHY_MAX: Final = 500


class Question(ModalScreen["wire.Changed | None"]):
    """Shows what is about to be done and to how many, takes the reason, and does it. What the daemon says against it stays.

    Args:
        perform: Carries it out, for a reason.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+c", "leave", show=False)]

    def __init__(
        self, deed: Deed, workflow_id: str, *, glyphs: Glyphs, perform: Callable[[str], "Awaitable[wire.Changed]"]
    ) -> None:
        super().__init__()
        self._deed, self._workflow_id, self._glyphs, self._perform = deed, workflow_id, glyphs, perform
        self._is_busy = False

    def compose(self) -> ComposeResult:
        """Put question, meaning, command, reason and answer below each other."""
        plain = self._glyphs.plain
        with Vertical(classes="dialog"):
            yield Static(Text(plain(self._deed.question), style="bold"), id="question")
            yield Static(Text(plain(self._deed.means)))
            yield Static(Text(plain(self._deed.command(self._workflow_id)), style="dim"), id="command")
            yield Static(Text("reason, for the journal (may be empty):"))
            yield Input(max_length=_WHY_MAX, id="why", select_on_focus=False)
            yield Static(Text("Enter does it, Esc leaves it", style="bold"), id="answer")

    def on_mount(self) -> None:
        """Have the reason typed first."""
        self.query_one("#why", Input).focus()

    def on_input_submitted(self) -> None:
        """Do it."""
        if not self._is_busy:
            self._is_busy = True
            self.run_worker(self._ask(), exclusive=True)

    def action_leave(self) -> None:
        """Do nothing."""
        if not self._is_busy:
            self.dismiss(None)

    async def _ask(self) -> None:
        answer = self.query_one("#answer", Static)
        answer.update(Text("asking the daemon", style="bold"))
        try:
            changed = await self._perform(self.query_one("#why", Input).value.strip())
        except DyrygentError as error:
            answer.update(_told(error, self._glyphs))
            self._is_busy = False
        else:
            self.dismiss(changed)


class Reading(ModalScreen[None]):
    """A text to read, of any length."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,e,question_mark,ctrl+c", "app.pop_screen", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
    ]

    def __init__(self, title: str, text: Text, *, glyphs: Glyphs) -> None:
        super().__init__()
        self._title, self._glyphs = title, glyphs
        # Made here: an answer may come before it is on the screen, and after it has left.
        self._body = Static(text)

    def compose(self) -> ComposeResult:
        """Put title and text below each other."""
        with Vertical(classes="dialog tall"):
            yield Static(Text(self._glyphs.plain(self._title), style="bold"))
            with VerticalScroll(id="read"):
                yield self._body
            yield Static(Text("Esc closes", style="bold"))

    def on_mount(self) -> None:
        """Have keys scroll."""
        self.query_one("#read").focus()

    def show_text(self, text: Text) -> None:
        """Take another text, when an answer has come."""
        self._body.update(text)

    def action_scroll(self, by: int) -> None:
        """Scroll by a line."""
        self.query_one("#read", VerticalScroll).scroll_relative(y=by, animate=False)


def _told(error: DyrygentError, glyphs: Glyphs) -> Text:
    """Return all that the daemon says, and what to do about it."""
    is_late = isinstance(error, NotOnDiskYet)
    text = Text(
        f"{'not yet' if is_late else 'error'}: {glyphs.plain(localized(error.message))}",
        style="bold yellow" if is_late else "bold red",
    )
    if error.next_step:
        text.append(f"\nnext: {glyphs.plain(localized(error.next_step))}")
    return text.append("\nEnter tries again, Esc leaves it")
