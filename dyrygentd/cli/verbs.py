"""The verbs: `cancel`, `pause`, `resume`, `retry`, `set-priority` for workflows, `hold`, `release`, `skip`, `rerun` for nodes.

A verb for many workflows is carried out here, one after the other, and not by the daemon's ``/v1/bulk``: what was shown and
confirmed is what is changed, each line appears when its change is on disk, and Ctrl-C stops between two of them.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.names import node_hint
from dyrygentd.cli.session import FAILED, INTERRUPTED, NOT_YET, Session, command, echo_json, pairs, say, say_not_yet
from dyrygentd.core.bounds import PRIORITY_MAX
from dyrygentd.errors import DaemonUnreachable, RemoteError, RemoteNotOnDiskYet

if TYPE_CHECKING:
    WholeNumber = click.ParamType[int]
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

if not TYPE_CHECKING:
    WholeNumber = click.ParamType

STATES: Final = ("scheduled", "running", "paused", "succeeded", "failed", "cancelled")

MEANT_STATES: Final = {
    "cancel": ("scheduled", "running", "paused"),
    "pause": ("scheduled", "running"),
    "resume": ("paused",),
    "set-priority": ("scheduled", "running", "paused"),
    # Not the cancelled ones, unless somebody says so: they ended because a person wanted it.
    "retry": ("running", "paused", "failed"),
}
"""The states that a filter without a state means: those in which the verb does something."""

_SHOWN_BEFORE_ASKING: Final = 20


@dataclass(frozen=True, slots=True)
class Choice:
    """Which workflows are meant if none is named, and whether to go ahead."""

    states: tuple[str, ...]
    name: str | None
    labels: dict[str, str]
    is_dry_run: bool
    is_yes: bool
    is_all: bool = False

    @property
    def is_filter(self) -> bool:
        """Tell whether there is a filter."""
        return bool(self.states or self.labels or self.is_all) or self.name is not None


def states_of(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Read states of workflows, repeated or separated by commas."""
    words = tuple(word for text in values for word in text.split(",") if word)
    for word in words:
        if word not in STATES:
            raise click.BadParameter(f"'{word}' is no state of a workflow, these are: {', '.join(STATES)}")
    return words


def choosing(function: Callable[..., None]) -> Callable[..., None]:
    """Let a verb take a filter instead of references, and hand it over as ``choice``."""

    def run(
        session: Session,
        *,
        states: tuple[str, ...],
        name: str | None,
        labels: dict[str, str],
        is_dry_run: bool,
        is_yes: bool,
        is_all: bool,
        **parameters: Any,
    ) -> None:
        choice = Choice(states, name, labels, is_dry_run, is_yes, is_all)
        if choice.is_filter and not (is_dry_run or is_yes or sys.stdin.isatty()):
            raise click.UsageError("nobody can be asked here: add --yes, or look first with --dry-run")
        function(session, choice=choice, **parameters)

    functools.update_wrapper(run, function)
    options = (
        click.option(
            "--label", "labels", metavar="K=V", multiple=True, callback=pairs, help="All with this label, instead of REF."
        ),
        click.option("--state", "states", metavar="STATE", multiple=True, callback=states_of, help="All in this state."),
        click.option("--name", metavar="NAME", help="All with this name."),
        click.option("--all", "is_all", is_flag=True, help="All for which the verb does something."),
        click.option("--dry-run", "is_dry_run", is_flag=True, help="Show which workflows are meant, change nothing."),
        click.option("--yes", "is_yes", is_flag=True, help="Do not ask; needed with a filter where nobody can be asked."),
    )
    for option in reversed(options):
        option(run)
    return run


_why = click.option("--why", default="", metavar="TEXT", help="The reason, for the journal (see `dyrygentctl events`).")


class _Priority(WholeNumber):
    """A priority on the command line."""

    name = "integer"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """Read it."""
        try:
            priority = int(value)
        except ValueError:
            self.fail(
                f"'{value}' is no whole number: higher goes first, 0 is usual, and less than 0 goes last", parameter, context
            )
        if abs(priority) > PRIORITY_MAX:
            self.fail(f"{priority} is not from {-PRIORITY_MAX} to {PRIORITY_MAX}", parameter, context)
        return priority


class _Numbers(click.Command):
    """A command whose arguments may be negative numbers."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings | {"context_settings": {"ignore_unknown_options": True}})

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        before_dashes = args[: args.index("--")] if "--" in args else list(args)
        rest = super().parse_args(context, args)
        known = {option for parameter in self.get_params(context) for option in parameter.opts}
        for word in context.params.get("references") or ():
            if word.startswith("-") and word in before_dashes and word not in known:
                raise click.NoSuchOption(word, ctx=context)
        return rest


# --- workflows ------------------------------------------------------------------------------------------------------


@click.command(short_help="End workflows now.")
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option("--terminate", is_flag=True, help="End tasks that run, too (SIGTERM at the worker).")
@_why
@command
@choosing
def cancel(session: Session, references: tuple[str, ...], terminate: bool, why: str, choice: Choice) -> None:
    """End workflows now: nothing more is dispatched, and what waits in the broker is revoked.

    Without --terminate, tasks that a worker has begun go on, and are shown as late when they end. One that has finished stays as
    it is.

    \b
    Example: dyrygentctl cancel --label cluster=gra1 --why "wrong cluster" --dry-run
    """
    _on_workflows(session, "cancel", references, choice, terminate=terminate, why=why)


@click.command(short_help="Dispatch nothing more of workflows, until `resume`.")
@click.argument("references", metavar="[REF]...", nargs=-1)
@_why
@command
@choosing
def pause(session: Session, references: tuple[str, ...], why: str, choice: Choice) -> None:
    """Dispatch nothing more until `resume`. Tasks in flight go on, and their results are taken in.

    \b
    Example: dyrygentctl pause --state running --why "CHG-42: switch upgrade"
    """
    _on_workflows(session, "pause", references, choice, why=why)


@click.command(short_help="Go on after `pause`.")
@click.argument("references", metavar="[REF]...", nargs=-1)
@_why
@command
@choosing
def resume(session: Session, references: tuple[str, ...], why: str, choice: Choice) -> None:
    """Go on after `pause`.

    \b
    Example: dyrygentctl resume @latest --why "upgrade is over"
    """
    _on_workflows(session, "resume", references, choice, why=why)


@click.command("set-priority", cls=_Numbers, short_help="Change whose turn comes first.")
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.argument("priority", metavar="N", type=_Priority())
@_why
@command
@choosing
def set_priority(session: Session, references: tuple[str, ...], priority: int, why: str, choice: Choice) -> None:
    """Change whose turn comes first: workflows with a higher number do, 0 is usual.

    \b
    Example: dyrygentctl set-priority @latest 10 --why "customer waits"
    """
    _on_workflows(session, "set-priority", references, choice, priority=priority, why=why)


@click.command(short_help="Try again what failed: all of it, some nodes, or one cause.")
@click.argument("words", metavar="[REF [NODE]...]", nargs=-1)
@click.option(
    "--cause",
    default="",
    metavar="N|ID",
    help="Only what failed, was lost or cancelled for this cause (see `dyrygentctl explain REF`).",
)
@click.option("--lost", "is_lost", is_flag=True, help="Only what was lost: the same as --cause lost.")
@click.option("--force", is_flag=True, help="Also give up an attempt that is in flight; the task may then run twice.")
@click.option("--terminate", is_flag=True, help="With --force: end the attempt at its worker, too (SIGTERM).")
@click.option("--each", "is_each", is_flag=True, help="All arguments are workflows, none is a node.")
@_why
@command
@choosing
def retry(
    session: Session,
    words: tuple[str, ...],
    cause: str,
    is_lost: bool,
    force: bool,
    terminate: bool,
    is_each: bool,
    why: str,
    choice: Choice,
) -> None:
    """Try again what failed, was cancelled or lost, and all that never ran because of it. A new attempt has a new task id.

    A filter without --state leaves out workflows that were cancelled.

    \b
    Example: dyrygentctl retry @latest --cause 1 --why "DNS is back"
    Example: dyrygentctl retry --lost --all --yes --why "the broker had lost its memory"
    """
    references, nodes = (words, ()) if is_each or choice.is_filter else (words[:1], words[1:])
    given = {"cause": _cause(cause, is_lost), "force": force, "terminate": terminate, "why": why}
    _on_workflows(session, "retry", references, choice, nodes=nodes, **given)


# --- nodes ----------------------------------------------------------------------------------------------------------


@click.command(short_help="Keep nodes from being dispatched, until `release`.")
@click.argument("reference", metavar="REF")
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@_why
@command
def hold(session: Session, reference: str, nodes: tuple[str, ...], why: str) -> None:
    """Keep nodes that have not been dispatched from it, until `release`. The rest of the workflow goes on.

    \b
    Example: dyrygentctl hold @latest drain --why "disk is still in use"
    """
    _on_nodes(session, "hold", reference, nodes=nodes, why=why)


@click.command(short_help="Open gates, let held nodes go, start a scheduled workflow now.")
@click.argument("reference", metavar="REF")
@click.argument("nodes", metavar="[NODE]...", nargs=-1)
@_why
@command
def release(session: Session, reference: str, nodes: tuple[str, ...], why: str) -> None:
    """Open gates, and let nodes go that an operator or a time holds; a poll asks now. --why is a gate's note.

    Without NODE: have a workflow start now that waits for its start time.

    \b
    Example: dyrygentctl release @latest approval --why "checked by Ada"
    """
    _on_nodes(session, "release", reference, nodes=nodes, why=why)


@click.command(short_help="Count nodes as succeeded and go on without them.")
@click.argument("reference", metavar="REF")
@click.argument("nodes", metavar="[NODE]...", nargs=-1)
@click.option(
    "--cause", default="", metavar="N|ID", help="All that failed, was lost or cancelled for this cause, instead of NODE."
)
@click.option("--lost", "is_lost", is_flag=True, help="All that was lost, instead of NODE.")
@click.option("--value", metavar="JSON", help="What takes the place of their value [default: null].")
@click.option("--terminate", is_flag=True, help="End their tasks, too, if a worker has begun them (SIGTERM).")
@_why
@command
def skip(
    session: Session,
    reference: str,
    nodes: tuple[str, ...],
    cause: str,
    is_lost: bool,
    value: str | None,
    terminate: bool,
    why: str,
) -> None:
    """Count nodes as succeeded and go on without them. What waits for their value gets the one of --value.

    \b
    Example: dyrygentctl skip @latest measure --value 42 --why "measured by hand"
    """
    try:
        decoded = None if value is None else json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(
            f"'{value}' is no JSON: {error}; a text needs quotes: '\"text\"'", param_hint="--value"
        ) from None
    cause = _cause(cause, is_lost)
    if not nodes and not cause:
        raise click.UsageError("name a node, or give --cause or --lost")
    _on_nodes(session, "skip", reference, nodes=nodes, cause=cause, value=decoded, terminate=terminate, why=why)


@click.command(short_help="Run nodes and everything after them again.")
@click.argument("reference", metavar="REF")
@click.option("--from", "first", metavar="NODE...", multiple=True, required=True, help="Where to begin.")
@click.argument("further", metavar="", nargs=-1)
@_why
@command
def rerun(session: Session, reference: str, first: tuple[str, ...], further: tuple[str, ...], why: str) -> None:
    """Run nodes and everything after them again, whatever became of them.

    \b
    Example: dyrygentctl rerun @latest --from build --why "built from the wrong branch"
    """
    _on_nodes(session, "rerun", reference, nodes=(*first, *further), why=why)


def _cause(cause: str, is_lost: bool) -> str:
    if cause and is_lost:
        raise click.UsageError("give --cause or --lost, not both")
    return "lost" if is_lost else cause


# --- carrying out ---------------------------------------------------------------------------------------------------


def _on_workflows(session: Session, verb: str, references: Sequence[str], choice: Choice, **fields: Any) -> None:
    if references and choice.is_filter:
        raise click.UsageError("name workflows or give a filter (--label, --state, --name, --all), not both")
    if not references and not choice.is_filter:
        raise click.UsageError(
            "name a workflow (an id, a unique prefix, a name, @latest), or give a filter: --label, --state, --name, --all"
        )
    is_lost = fields.get("cause") == "lost"
    views = _fitting(session, verb, choice, is_lost=is_lost) if choice.is_filter else _named(session, references)
    if choice.is_dry_run:
        _show(session, views)
        say(f"{verb} would go to {render.number(len(views), 'workflow')}; nothing was changed")
        return
    if choice.is_filter:
        if not views:
            say(f"no workflow fits that `{verb}` would change")
        elif not choice.is_yes:
            _ask(verb, views, **fields)
    _perform_all(session, verb, views, **fields)


def _on_nodes(session: Session, verb: str, reference: str, **fields: Any) -> None:
    _perform_all(session, verb, _named(session, [reference]), **fields)


def _named(session: Session, references: Sequence[str]) -> "list[wire.WorkflowView]":
    # All references first: a typing error in the third must not leave two of them changed.
    views: dict[str, wire.WorkflowView] = {}
    for reference in references:
        handle = session.handle(reference)
        view = handle.view or handle.status()
        views.setdefault(view.id, view)
    return list(views.values())


def _fitting(session: Session, verb: str, choice: Choice, *, is_lost: bool) -> "list[wire.WorkflowView]":
    states = choice.states or MEANT_STATES[verb]
    views = session.client().list(states=states, name=choice.name, labels=choice.labels, limit=None)
    if is_lost:
        return [view for view in views if view.waits_for_person.get("lost")]
    if verb == "retry" and not choice.states:
        # One that runs is meant if something in it has failed already.
        views = [
            view
            for view in views
            if view.is_finished
            or view.waits_for_person.get("lost")
            or any(map(view.counts.get, ("failed", "cancelled", "blocked")))
        ]
    return views


def _show(session: Session, views: "Sequence[wire.WorkflowView]") -> None:

    if session.is_json:
        echo_json(views)
    elif views:
        click.echo(_rows(views))


def _rows(views: "Sequence[wire.WorkflowView]") -> str:
    rows = [(view.id, view.name, view.state, render.progress(view)) for view in views]
    return render.table(("ID", "NAME", "STATE", "TASKS"), rows)


def _ask(verb: str, views: "Sequence[wire.WorkflowView]", **fields: Any) -> None:
    """Ask whether to go on; exit if not."""
    say(_rows(views[:_SHOWN_BEFORE_ASKING]))
    if len(views) > _SHOWN_BEFORE_ASKING:
        say(f"and {len(views) - _SHOWN_BEFORE_ASKING} more: --dry-run shows all of them")
    words = " and end running tasks" if fields.get("terminate") else ""
    try:
        is_sure = click.confirm(f"{verb} {render.number(len(views), 'workflow')}{words}?", err=True)
    except click.Abort:
        say("\nnothing was changed")
        sys.exit(INTERRUPTED)
    if not is_sure:
        say("nothing was changed")
        sys.exit(FAILED)


def _perform_all(session: Session, verb: str, views: "Sequence[wire.WorkflowView]", **fields: Any) -> None:
    """Carry out a verb on each, and tell it as it is done. What is refused or late is told on stderr, and the rest goes on."""
    from dyrygentd import wire

    answers: list[wire.Changed | wire.Refusal] = []
    with _telling_how_far(session, answers, views):
        for view in views:
            handle = session.client().handle(view)
            of = f"{view.id}  {render.inline(view.name)}: " if len(views) > 1 else ""
            try:
                changed = handle.perform(verb, **fields)
            except RemoteNotOnDiskYet as error:
                answers.append(wire.Refusal(view.id, str(error), error.code, error.next_step))
                say_not_yet(error, of=of)
                continue
            except RemoteError as error:
                next_step = _next_step(handle, error, verb, fields)
                answers.append(wire.Refusal(view.id, str(error), error.code, next_step))
                say(f"error: {of}{render.visible(error)}" + (f"\nnext: {render.visible(next_step)}" if next_step else ""))
                continue
            answers.append(changed)
            if not session.is_json:
                what, state = _what(view, changed), changed.workflow.state
                click.echo(f"{view.id}  {render.inline(view.name)}  {what}  {render.state(state)}")
    undone = [answer.code for answer in answers if isinstance(answer, wire.Refusal)]
    late = undone.count(RemoteNotOnDiskYet.code)
    refused = len(undone) - late
    if refused and len(views) > 1:
        say(f"{verb} was refused for {refused} of {render.number(len(views), 'workflow')}")
    if refused:
        sys.exit(FAILED)
    if late:
        sys.exit(NOT_YET)


@contextmanager
def _telling_how_far(session: Session, answers: Sequence[object], views: Sequence[object]) -> Iterator[None]:
    """Say how far it came if it is interrupted or the daemon goes away; write the JSON document in any case."""

    try:
        yield
    except (KeyboardInterrupt, DaemonUnreachable):
        if len(views) > 1 or len(answers) < len(views):
            say(f"stopped after {len(answers)} of {render.number(len(views), 'workflow')}; the next one may be done, too")
        raise
    finally:
        if session.is_json:
            echo_json(answers)


def _what(before: "wire.WorkflowView", changed: "wire.Changed") -> str:
    """Say what a verb has changed."""
    if not changed.is_changed:
        # A retry of what has not failed is no retry: "already so" would sound as if one were under way.
        return "nothing to retry" if changed.verb == "retry" else "already so"
    match changed.verb:
        case "pause" | "resume":
            return f"was {before.state}"
        case "release" if not changed.nodes:
            return "starts now"
        case "set-priority":
            return f"priority {before.priority} -> {changed.workflow.priority}"
    return render.number(changed.node_count or len(changed.nodes), "node")


def _next_step(handle: "Handle", error: RemoteError, verb: str, fields: dict[str, Any]) -> str:
    """Say what to do about a refusal: the daemon's words, in this command's terms."""
    nodes = list(fields.get("nodes") or ())
    if error.code == "node-not-found":
        return node_hint(handle, error)
    if verb == "retry" and error.code == "verb-refused" and "`force`" in str(error):
        return f"wait for it, or {render.command('retry', handle.id, nodes, flags=['--force'])}"
    facts = error.document.get("facts")
    if error.code == "value-gone" and isinstance(facts, dict):
        origins = list(facts.get("origins") or ())
        if origins and len(origins) == facts.get("origin_count"):
            return render.command("rerun", handle.id, origins)
    return error.next_step
