"""How a verb is carried out on one workflow or on many, and how that is told.

One for many workflows is carried out here, one after the other, and not by the daemon's ``/v1/bulk``: what was shown and
confirmed is what is changed, each line appears when its change is on disk, and Ctrl-C stops between two of them.

A verb goes to the id of the workflow that was read: a name or ``@latest`` may mean another one a moment later.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.choosing import MEANT_STATES, Choice
from dyrygentd.cli.names import node_hint
from dyrygentd.cli.session import FAILED, NOT_YET, Session, confirm, echo_json, say, say_not_yet
from dyrygentd.errors import DaemonUnreachable, RemoteError, RemoteNotOnDiskYet

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_SHOWN_BEFORE_ASKING: Final = 20


def on_workflows(session: Session, verb: str, references: Sequence[str], choice: Choice, **fields: Any) -> None:
    """Carry out a verb on the workflows that are named, or on those that a filter means."""
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


def on_nodes(session: Session, verb: str, reference: str, **fields: Any) -> None:
    """Carry out a verb on nodes of one workflow."""
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
    confirm(f"{verb} {render.number(len(views), 'workflow')}{words}?")


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
                answers.append(wire.Refusal(view.id, error.message, error.code, error.next_step))
                say_not_yet(error, of=of)
                continue
            except RemoteError as error:
                next_step = _next_step(handle, error, verb, fields)
                answers.append(wire.Refusal(view.id, error.message, error.code, next_step))
                say(f"error: {of}{render.visible(error.message)}" + (f"\nnext: {render.visible(next_step)}" if next_step else ""))
                continue
            answers.append(changed)
            if not session.is_json:
                what, state = _what(view, changed, fields.get("nodes")), changed.workflow.state
                click.echo(f"{view.id}  {render.inline(view.name)}  {what}  {render.state(state)}")
                if verb == "skip" and fields.get("value") is None and (words := render.behind(changed)):
                    say(words)
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


def _what(before: "wire.WorkflowView", changed: "wire.Changed", asked: Sequence[str] | None) -> str:
    """Say what a verb has changed, which may have been asked for nodes."""
    if not changed.is_changed:
        # A retry of what has not failed is no retry: "already so" would sound as if one were under way.
        return "nothing to retry" if changed.verb == "retry" else "already so"
    match changed.verb:
        case "pause" | "resume":
            return f"was {before.state}"
        case "hold" if asked and not changed.nodes:
            return "the workflow of the node is paused"
        case "release" if asked and not changed.nodes:
            return "the workflow of the node goes on"
        case "release" if not changed.nodes:
            return "starts now"
        case "set-priority":
            return f"priority {before.priority} -> {changed.workflow.priority}"
    told = render.number(changed.node_count or len(changed.nodes), "node")
    return f"{told}, its sections clean up first" if changed.verb == "cancel" and not changed.workflow.is_finished else told


def _next_step(handle: "Handle", error: RemoteError, verb: str, fields: dict[str, Any]) -> str:
    """Say what to do about a refusal: the daemon's words, in this command's terms."""
    nodes = list(fields.get("nodes") or ())
    if error.code == "node-not-found":
        return node_hint(handle, error)
    if verb == "retry" and error.code == "verb-refused" and "`force`" in error.message:
        return f"wait for it, or {render.command('retry', handle.id, nodes, flags=['--force'])}"
    facts = error.document.get("facts")
    if error.code == "value-gone" and isinstance(facts, dict):
        origins = list(facts.get("origins") or ())
        if origins and len(origins) == facts.get("origin_count"):
            return render.command("rerun", handle.id, origins)
    return error.next_step
