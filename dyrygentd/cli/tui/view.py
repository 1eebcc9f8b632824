"""The screen of one workflow: boxes on the left, causes, what is in flight and the journal on the right, details below."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input, Static

from dyrygentd.cli import render
from dyrygentd.cli.tui import deeds, lines, texts
from dyrygentd.cli.tui.deeds import Chosen, Deed
from dyrygentd.cli.tui.dialogs import Question, Reading
from dyrygentd.cli.tui.feed import Feed, Look
from dyrygentd.cli.tui.lines import BranchLine, CauseLine, EntryLine, NodeLine
from dyrygentd.cli.tui.marks import Glyphs
from dyrygentd.cli.tui.masthead import Masthead
from dyrygentd.cli.tui.outline import Branch, Filter, Outline, next_trouble
from dyrygentd.cli.tui.rows import Pane, Rows
from dyrygentd.client.aio import AsyncClient, AsyncHandle
from dyrygentd.errors import DyrygentError

if TYPE_CHECKING:
    from dyrygentd import wire

_STATES: Final = ("", "failed", "held", "dispatched", "retrying", "blocked", "ready", "waiting", "cancelled", "succeeded")
_HINTS: Final = (
    ("?", "all keys"),
    ("q", "leave"),
    ("n", "trouble"),
    ("e", "explain"),
    ("/", "find"),
    ("Tab", "pane"),
    ("r", "retry"),
    ("g", "release"),
    ("s", "skip"),
    ("p", "pause"),
    ("c", "cancel"),
    ("f", "state"),
)
"""What comes first is there on the narrowest terminal; the first one shows the rest."""
_JOURNAL_MAX: Final = 100
_FOUND_MAX: Final = 100
#: Nodes of a box that a verb names; more of them are better meant by their cause.
_NAMED_MAX: Final = 1000
#: How long something that was told stands there.
_TOLD_S: Final = 8.0
_DEPTH_MAX: Final = 40
#: From here on boxes have room for all that is to be noted of them, and causes and reasons want the rest.
_WIDE: Final = 160


class WatchScreen(Screen[None]):
    """Shows a workflow, and does what keys say.

    Args:
        ended: Told once a workflow has come to an end after which nothing is left to do here.
        failed: Told what no waiting helps against.
        go: Shows another workflow, by its id: a child of this one, or the one above.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "app.leave", show=False),
        Binding("question_mark", "help", show=False),
        Binding("n", "trouble(1)", show=False),
        Binding("N", "trouble(-1)", show=False),
        Binding("e", "explain", show=False),
        Binding("r", "act('retry')", show=False),
        Binding("s", "act('skip')", show=False),
        Binding("g", "act('release')", show=False),
        Binding("p", "act('pause')", show=False),
        Binding("c", "act('cancel')", show=False),
        Binding("slash", "find", show=False),
        Binding("f", "state(1)", show=False),
        Binding("F", "state(-1)", show=False),
        Binding("escape", "unfind", show=False),
        Binding("u", "up", show=False),
    ]

    def __init__(
        self,
        client: AsyncClient,
        handle: AsyncHandle,
        view: "wire.WorkflowView",
        *,
        glyphs: Glyphs,
        ended: "Callable[[wire.WorkflowView], None]",
        failed: Callable[[DyrygentError], None],
        go: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.view = view
        self._glyphs, self._ended, self._failed, self._go = glyphs, ended, failed, go
        self._outline, self._filter, self._found = Outline(), Filter(), False
        self._client, self._handle = client, handle
        self._header = Masthead(view, glyphs)
        lost, stood_still = self._header.show_lost, self._header.show_standstill
        self._feed = Feed(client, handle, self._outline, saw=self._saw, lost=lost, stood_still=stood_still)
        self._boxes = Pane(Rows(glyphs, name="boxes"), "BOXES")
        self._causes = Pane(Rows(glyphs, name="causes"), "FAILURES BY CAUSE")
        self._flying = Pane(Rows(glyphs, name="flying"), "HELD AND IN FLIGHT")
        self._journal = Pane(Rows(glyphs, name="journal"), "JOURNAL")
        self._find = Input(placeholder="part of a name", id="find", select_on_focus=False)
        self._hints = Static(id="hints")
        self._details = Static(id="details")
        self._told = Static(id="told")
        self._silence: Timer | None = None

    def compose(self) -> ComposeResult:
        """Put the parts together."""
        yield self._header
        with Horizontal(id="middle"):
            with Vertical(id="left"):
                yield self._boxes
            with Vertical(id="right"):
                yield self._causes
                yield self._flying
                yield self._journal
        yield self._details
        yield self._told
        yield self._find
        yield self._hints

    def on_mount(self) -> None:
        """Begin to follow."""
        self._find.display = self._told.display = False
        self._boxes.rows.focus()
        self.set_interval(1.0, self._let_times_go_on)
        self.run_worker(self._follow(), exit_on_error=True, group="feed")

    def on_resize(self) -> None:
        """Show as many hints as there is room for, and the panes as wide as what stands in them."""
        self.set_class(self.size.width >= _WIDE, "-wide")
        text = Text(no_wrap=True)
        for key, means in _HINTS:
            if text.cell_len + len(key) + len(means) + 3 > self.size.width:
                break
            text.append("  " if text else "")
            text.append(key, style="bold reverse")
            text.append(f" {means}")
        self._hints.update(text)
        self._show_details()

    # --- what is shown ------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        try:
            await self._feed.run()
        except* DyrygentError as errors:
            self._failed(_first(errors))

    def _saw(self, look: Look | None) -> None:
        if look is None:
            self._show_boxes()
            return
        self.view = look.view
        self._header.show_view(look.view, look.summary.estimate)
        self._header.show_vantage(self._client.vantage)
        causes = look.summary.causes
        lost = f", {causes.lost:,} lost" if causes.lost else ""
        self._causes.show_lines([CauseLine(cause) for cause in causes.causes], count=f"{causes.failures:,} failed{lost}")
        under_way = look.summary.under_way
        number = sum(look.view.counts.get(word, 0) for word in ("held", "retrying", "dispatched", "dispatching"))
        if not self._found:
            self._flying.show_lines([NodeLine(node) for node in under_way], count=f"{number:,}")
        entries = look.journal[-_JOURNAL_MAX:]
        first = len(look.journal) - len(entries)
        newest = [EntryLine(first + number, entry) for number, entry in enumerate(entries)][::-1]
        self._journal.show_lines(newest, count=f"{len(look.journal):,}" if look.journal else "")
        if look.view.is_finished:
            self._ended(look.view)

    def _show_boxes(self) -> None:
        rows = [BranchLine(branch) for branch in self._outline.rows(self._filter)]
        parts = [f"with '{self._glyphs.plain(self._filter.text)}'"] if self._filter.text else []
        parts += [f"{self._filter.state} only"] if self._filter.state else []
        self._boxes.show_lines(rows, count=f"{self.view.tasks:,} tasks", note=", ".join(parts))

    def _show_details(self) -> None:
        rows = self.focused if isinstance(self.focused, Rows) else self._boxes.rows
        line = rows.line
        found: Sequence[Text] = ()
        if isinstance(line, BranchLine):
            found = lines.details_of(line.branch, self._glyphs, self.size.width - 1)
        elif isinstance(line, CauseLine | NodeLine | EntryLine):
            found = line.details(self._glyphs)
        self._details.update(Text("\n").join(found[:3]))

    def _let_times_go_on(self) -> None:
        if not self.view.is_finished:
            self._header.go_on()
            if self._flying.rows.lines:
                self._flying.rows.refresh()
                self._show_details()

    @on(Rows.Moved)
    def _moved(self) -> None:
        self._show_details()

    # --- opening and looking for ----------------------------------------------------------------------------------------

    @on(Rows.Opened)
    def _opened(self, event: Rows.Opened) -> None:
        line = event.rows.line
        if isinstance(line, BranchLine):
            branch = line.branch
            if event.how == "close" and not branch.is_open:
                self._boxes.rows.go_to(self._around(branch))
            elif branch.is_open and branch.path and event.how != "open":
                self._outline.close(branch.path)
                self._show_boxes()
            elif branch.child and event.how != "close":
                self._go(branch.child)
            elif branch.is_node and event.how == "toggle":
                self.action_explain()
            elif not branch.is_open and not branch.is_node:
                self.run_worker(self._open(branch.path), group="open")
        elif isinstance(line, CauseLine):
            text = texts.cause_text(line.cause, self.view.id, self._glyphs)
            self.app.push_screen(Reading(f"Cause {line.cause.number}", text, glyphs=self._glyphs))
        elif isinstance(line, NodeLine) and line.node.child is not None:
            self._go(line.node.child.id)
        elif isinstance(line, NodeLine):
            self.action_explain()

    def action_up(self) -> None:
        """Show the workflow whose node this one is the work of."""
        if self.view.parent is None:
            self.tell("nothing is above it: somebody submitted it")
        else:
            self._go(self.view.parent.workflow)

    def _around(self, branch: Branch) -> str:
        above = ""
        for line in self._boxes.rows.lines:
            found = cast(BranchLine, line).branch
            if found.path == branch.path:
                break
            if found.depth == branch.depth - 1:
                above = found.path
        return above

    async def _open(self, path: str) -> bool:
        try:
            await self._feed.open(path)
        except DyrygentError as error:
            self.tell(error.message, error.next_step)
            return False
        self._show_boxes()
        return True

    def action_trouble(self, step: int) -> None:
        """Go to the next failure, or what waits for a person, and open what it is in."""
        self.run_worker(self._go_to_trouble(step), group="open", exclusive=True)

    async def _go_to_trouble(self, step: int) -> None:
        rows = self._boxes.rows
        after = rows.line.key if rows.line is not None else ""
        for _ in range(_DEPTH_MAX):
            shown = self._outline.rows(self._filter)
            found = next_trouble(shown, after, step=step)
            if found is None:
                self.tell("nothing has failed, and nothing waits for a person")
                return
            if found.is_node or (not found.is_open and not await self._open(found.path)):
                rows.go_to(found.path)
                rows.focus()
                return
            after = found.path if step > 0 or found.is_open else self._behind(found)

    def _behind(self, branch: Branch) -> str:
        """Return the row after all that is in a box; the workflow itself if that is the end."""
        shown = self._outline.rows(self._filter)
        at = next((number for number, row in enumerate(shown) if row.path == branch.path), 0)
        return next((row.path for row in shown[at + 1 :] if row.depth <= branch.depth), "")

    def action_find(self) -> None:
        """Ask for a part of a name."""
        self._find.display = True
        self._find.focus()

    def action_unfind(self) -> None:
        """Show everything again."""
        self._find.value = ""
        self._filter, self._found = Filter(), False
        self._find.display = False
        self._feed.poke()
        self._boxes.rows.focus()
        self._show_boxes()

    def action_state(self, step: int) -> None:
        """Show boxes with nodes in the next state only."""
        at = _STATES.index(self._filter.state) + step
        self._filter = Filter(self._filter.text, _STATES[at % len(_STATES)])
        self._show_boxes()

    @on(Input.Changed, "#find")
    def _find_changed(self, event: Input.Changed) -> None:
        self._filter = Filter(event.value.strip(), self._filter.state)
        self._show_boxes()

    @on(Input.Submitted, "#find")
    def _find_submitted(self) -> None:
        self._find.display = bool(self._filter.text)
        self._boxes.rows.focus()
        self.run_worker(self._search(self._filter.text), group="search", exclusive=True)

    async def _search(self, text: str) -> None:
        """Look for nodes in all boxes, those that are closed too, and show them instead of what is in flight."""
        found: list[wire.NodeView] = []
        try:
            async for node in self._handle.nodes(name=text, page=_FOUND_MAX + 1):
                found.append(node)
                if len(found) > _FOUND_MAX:
                    break
        except DyrygentError as error:
            self.tell(error.message, error.next_step)
            return
        if not found or not text:
            self._found = False
            self.tell(f"no node has '{text}' in its name")
            self._feed.poke()
            return
        self._found = True
        count = f"{_FOUND_MAX}, and there are more" if len(found) > _FOUND_MAX else str(len(found))
        self._flying.show_lines([NodeLine(node) for node in found[:_FOUND_MAX]], count=f"{count}", words="FOUND")
        self._flying.rows.focus()

    # --- explaining and doing -------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        """Show which keys there are."""
        self.app.push_screen(Reading("Keys", texts.help_text(self._glyphs), glyphs=self._glyphs))

    def action_explain(self) -> None:
        """Say why what is chosen does not run."""
        name = self._chosen().name
        reading = Reading(f"Node '{name}'" if name else "The workflow", Text("asking"), glyphs=self._glyphs)
        self.app.push_screen(reading)
        self.run_worker(self._explain(reading, name), group="explain", exclusive=True)

    async def _explain(self, reading: Reading, name: str) -> None:
        text = Text()
        try:
            if name:
                text = texts.node_text(await self._handle.node(name), self._glyphs).append("\n")
            text.append_text(texts.explained(await self._handle.explain(name or None), self._glyphs))
        except DyrygentError as error:
            text.append(f"error: {self._glyphs.plain(error)}\n{self._glyphs.plain(error.next_step)}", style="red")
        reading.show_text(text)

    def action_act(self, verb: str) -> None:
        """Ask whether to carry out a verb on what is chosen."""
        chosen, view = self._chosen(), self.view
        deed: Deed | str
        match verb:
            case "retry":
                deed = deeds.retry(chosen, view)
            case "skip":
                deed = deeds.skip(chosen)
            case "release":
                deed = deeds.release(chosen, view)
            case "pause":
                deed = deeds.pause_or_resume(view)
            case _:
                deed = deeds.cancel(view)
        if isinstance(deed, str):
            self.tell(deed)
        elif deed.states:
            self.run_worker(self._ask_by_name(deed), group="names", exclusive=True)
        else:
            self._ask(deed)

    async def _ask_by_name(self, deed: Deed) -> None:
        """Find out which nodes of a box are meant, and ask."""
        nodes: list[wire.NodeView] = []
        try:
            async for node in self._handle.nodes(states=deed.states, path=deed.inside, page=_NAMED_MAX):
                nodes.append(node)
                if len(nodes) > _NAMED_MAX:
                    break
        except DyrygentError as error:
            self.tell(error.message, error.next_step)
            return
        named = deeds.by_name(deed, nodes, self.view, most=_NAMED_MAX)
        if isinstance(named, str):
            self.tell(named)
        else:
            self._ask(named)

    def _ask(self, deed: Deed) -> None:
        view = self.view
        self.app.push_screen(Question(deed, view.id, glyphs=self._glyphs, perform=self._performing(deed)), self._done)

    def _performing(self, deed: Deed) -> "Callable[[str], Awaitable[wire.Changed]]":
        def perform(why: str) -> "Awaitable[wire.Changed]":
            return self._handle.perform(deed.verb, nodes=deed.nodes, cause=deed.cause, why=why)

        return perform

    def _done(self, changed: "wire.Changed | None") -> None:
        if changed is None:
            return
        self._feed.poke()
        count = changed.node_count or len(changed.nodes)
        what = render.number(count, "node") if count else "done" if changed.is_changed else "nothing had to be changed"
        self.tell(f"{changed.verb}: {what}, the workflow is {changed.workflow.state}")

    def _chosen(self) -> Chosen:
        rows = self.focused if isinstance(self.focused, Rows) else self._boxes.rows
        line = rows.line
        if isinstance(line, CauseLine):
            return Chosen(cause=line.cause)
        if isinstance(line, NodeLine):
            return Chosen(node=line.node)
        if isinstance(line, EntryLine):
            line = self._boxes.rows.line
        return Chosen(branch=line.branch if isinstance(line, BranchLine) else None)

    def tell(self, words: str, more: str = "") -> None:
        """Say something for a few seconds."""
        plain = self._glyphs.plain
        self._told.update(Text(plain(words) + (f"\n{plain(more)}" if more else "")))
        self._told.display = True
        if self._silence is not None:
            self._silence.stop()
        self._silence = self.set_timer(_TOLD_S, self._say_no_more)

    def _say_no_more(self) -> None:
        self._told.display = False


def _first(errors: BaseExceptionGroup[DyrygentError]) -> DyrygentError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast(DyrygentError, error)
