"""Lines of which one is chosen. Those on the screen are drawn and no others, and only if one of them is not what it was."""

from collections.abc import Sequence
from typing import ClassVar, Final, Protocol

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult, RenderResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from dyrygentd.cli.tui.marks import Glyphs

_CHOSEN: Final = Style(reverse=True)
_PLAIN: Final = Style(bold=False)


class Line(Protocol):
    """What can be drawn; lines that are equal look the same, but for the time that has passed."""

    @property
    def key(self) -> str:
        """By which it is found again."""

    def draw(self, width: int, glyphs: Glyphs) -> Text:
        """Return how it looks in so many columns."""


class Rows(ScrollView, can_focus=True):
    """A list of lines with a cursor, which stays with its line when others come and go."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
        Binding("enter,space", "open", show=False),
        Binding("right,l", "open_only", show=False),
        Binding("left,h", "close", show=False),
    ]

    class Moved(Message):
        """The cursor stands on another line, or on one that has changed."""

    class Opened(Message):
        """A line was chosen, or is to be opened or closed (``how`` is ``toggle``, ``open`` or ``close``)."""

        def __init__(self, rows: "Rows", how: str) -> None:
            super().__init__()
            self.rows, self.how = rows, how

    def __init__(self, glyphs: Glyphs, *, name: str) -> None:
        super().__init__(id=name)
        self._glyphs = glyphs
        self._lines: Sequence[Line] = ()
        self._at = 0

    @property
    def lines(self) -> Sequence[Line]:
        """All lines."""
        return self._lines

    @property
    def line(self) -> Line | None:
        """The line that is chosen; None if there is none."""
        return self._lines[self._at] if self._lines else None

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Show these lines; the cursor stays where it was."""
        if lines == self._lines:
            return
        key = self.line.key if self.line is not None else None
        self._lines = lines
        at = next((number for number, line in enumerate(lines) if line.key == key), self._at)
        self._at = max(0, min(at, len(lines) - 1))
        self.virtual_size = Size(1, len(lines))
        self._keep_in_sight()
        self.refresh()
        self.post_message(self.Moved())

    def go_to(self, key: str) -> None:
        """Put the cursor on a line, if it is there."""
        for number, line in enumerate(self._lines):
            if line.key == key:
                self._go(number)

    def action_move(self, by: int) -> None:
        """Go up or down."""
        self._go(self._at + by)

    def action_page(self, by: int) -> None:
        """Go up or down by what is seen."""
        self._go(self._at + by * max(1, self.size.height - 1))

    def action_open(self) -> None:
        """Open or close what is chosen."""
        self._tell("toggle")

    def action_open_only(self) -> None:
        """Open what is chosen."""
        self._tell("open")

    def action_close(self) -> None:
        """Close what is chosen."""
        self._tell("close")

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen."""
        width, number = self.size.width, y + self.scroll_offset.y
        if number >= len(self._lines):
            return _strip(Text(" none" if number == 0 else "", style="dim"), width, self.app.console)
        strip = _strip(self._lines[number].draw(width, self._glyphs), width, self.app.console)
        if number != self._at or not self.has_focus:
            return strip
        return Strip([Segment(words, _chosen(style), control) for words, style, control in strip], width)

    def on_focus(self) -> None:
        """Draw the cursor as the one that keys move."""
        self.refresh()
        self.post_message(self.Moved())

    def on_blur(self) -> None:
        """Draw the cursor as one that keys do not move."""
        self.refresh()

    def on_resize(self) -> None:
        """Keep the cursor in sight."""
        self._keep_in_sight()

    def _go(self, number: int) -> None:
        number = max(0, min(number, len(self._lines) - 1))
        if number != self._at:
            self._at = number
            self._keep_in_sight()
            self.refresh()
            self.post_message(self.Moved())

    def _keep_in_sight(self) -> None:
        height, top = self.size.height, self.scroll_offset.y
        if self._at < top:
            self.scroll_to(y=self._at, animate=False, immediate=True)
        elif height and self._at >= top + height:
            self.scroll_to(y=self._at - height + 1, animate=False, immediate=True)

    def _tell(self, how: str) -> None:
        if self._lines:
            self.post_message(self.Opened(self, how))


def _strip(text: Text, width: int, console: Console) -> Strip:
    """Return a text of one line in so many columns; each part has a style, which filters of colours want."""
    text.truncate(width)
    strip = Strip(text.render(console)).adjust_cell_length(width)
    return Strip([Segment(words, style or _PLAIN, control) for words, style, control in strip if words], width)


def _chosen(style: Style | None) -> Style:
    """Return how a part of the chosen line looks: a bar keeps its colours, which mean something."""
    return _CHOSEN if style is None else style if style.bgcolor is not None else Style(bold=style.bold, reverse=True)


class Heading(Widget):
    """One line that names what stands below it."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def name_it(self, words: str) -> None:
        """Take other words, which are ours."""
        if words != self._words:
            self._words = words
            self.refresh()

    def render(self) -> RenderResult:
        """Draw it."""
        return Text(self._words, no_wrap=True, overflow="crop")


class Pane(Vertical):
    """Rows below their heading."""

    def __init__(self, rows: Rows, words: str) -> None:
        super().__init__(classes="pane")
        self.heading, self.rows, self._words = Heading(words), rows, words

    def compose(self) -> ComposeResult:
        """Put the two together."""
        yield self.heading
        yield self.rows

    def show_lines(self, lines: Sequence[Line], *, count: str = "", note: str = "", words: str = "") -> None:
        """Show these lines, and how many there are in all; ``words`` name them if they are something else for once."""
        self.heading.name_it(f"{words or self._words} {count}".rstrip() + (f"  {note}" if note else ""))
        self.rows.show_lines(lines)
