"""`dyrygentctl explain` and `events`: why it is not running, what can be done, and who did what."""

import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import Session, command, main, render, say, say_problems
from dyrygentd.cli.names import hinting

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_VERB: Final = re.compile(r"`(retry|release|skip|resume|rerun)(?: ([^`]*))?`")
"""The daemon's next steps name verbs and nodes in words; here they become commands that can be pasted."""

_EXAMPLES_MAX: Final = 5
_AUDIT_PAGE: Final = 100
_FOLLOW_S: Final = 1.0

_NAMING: Final = (("retry", ""), ("release", ""), ("skip", ""), ("rerun", "--from "))


@main.command(short_help="Say why it is not running, and what can be done.")
@click.argument("reference", metavar="REF")
@click.argument("node", metavar="[NODE]", required=False)
@command
def explain(session: Session, reference: str, node: str | None) -> None:
    """Say why a workflow, or one node of it, is not running, and what can be done: engine, broker, workers, backend are asked.

    The answer comes first, then the nodes that have not succeeded, in groups, with commands to paste.

    \b
    Example: dyrygentctl explain @latest drain
    """
    from dyrygentd import wire

    handle = session.handle(reference)
    with hinting(handle):
        found = handle.explain(node)
    if session.is_json:
        click.echo(wire.encode(found))
        return
    click.echo(click.style(render.visible(found.verdict), bold=True))
    if node is not None:
        _show_steps(list(_steps_of_node(handle, found)), indent="")
    causes = _ids_of_causes(handle, found.standings)
    has_failed = any(standing.code in ("failed", "cancelled") for standing in found.standings)
    offered: set[str] = set()
    for standing in found.standings:
        examples = ""
        if standing.count > 1:
            more = ", …" if standing.count > len(standing.examples[:_EXAMPLES_MAX]) else ""
            examples = f"\n  {render.inline(', '.join(standing.examples[:_EXAMPLES_MAX]))}{more}"
        click.echo(f"\n{render.number(standing.count, 'node')}: {render.visible(standing.text)}{examples}")
        # What blocks the others has its commands already.
        if not (standing.code == "blocked" and has_failed):
            # One gate may be all that hundreds of groups wait for: each command is offered once.
            steps = [step for step in _steps_of_group(found.id, standing, causes) if step not in offered]
            offered.update(steps)
            _show_steps(steps, indent="  ")
    resume = render.command("resume", found.id)
    if found.state == "paused" and node is None and resume not in offered:
        click.echo(f"\nnext: {resume}")
    say_problems(found.problems)


@main.command(short_help="Show the journal: who did what, when and why.")
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--follow", is_flag=True, help="Go on with what is done from now on, until Ctrl-C.")
@command
def events(session: Session, reference: str | None, follow: bool) -> None:
    """Show the journal, oldest first: who did what, when and why. Without REF: of all workflows, the newest 100 entries.

    --follow goes on past the end of a workflow, which can be retried, until Ctrl-C.

    \b
    Example: dyrygentctl events @latest
    Example: dyrygentctl events --follow
    """
    from dyrygentd import wire

    if reference is None or follow:
        _audit(session, reference, follow=follow)
        return
    entries = session.handle(reference).journal()
    if session.is_json:
        click.echo(wire.encode(entries))
        return
    if not entries:
        say("nobody has done anything to it")
        return
    rows = [(render.moment(entry.at), entry.by, entry.verb, render.entry(entry), entry.why) for entry in entries]
    click.echo(render.table(("WHEN", "WHO", "VERB", "WHAT", "WHY"), rows))


@main.command(short_help="Print all of a workflow as JSON.")
@click.argument("reference", metavar="REF")
@click.option("--definition", "is_definition", is_flag=True, help="Its definition alone, which `submit` takes.")
@command
def export(session: Session, reference: str, is_definition: bool) -> None:
    """Print a workflow as JSON: definition, states, values and journal. For its owner and admins, as it has the arguments.

    \b
    Example: dyrygentctl export 1a2b > ticket.json
    Example: dyrygentctl export 1a2b | dyrygentctl --socket /run/other.sock import -
    Example: dyrygentctl export 1a2b --definition | dyrygentctl --socket /run/other.sock submit -
    """
    import json

    handle = session.handle(reference)
    if not is_definition:
        click.echo(handle.export())
        return
    # A copy is another workflow: it must neither be taken for this one nor share its tasks' ids.
    document = json.loads(handle.definition())
    document.pop("key", None)
    for node in document["nodes"]:
        node.pop("task_id", None)
        node.pop("adopted", None)
    click.echo(json.dumps(document, ensure_ascii=False))


def _audit(session: Session, reference: str | None, *, follow: bool) -> None:
    """Show what was done to all workflows, or one, and what is done from now on; a daemon that restarts is waited for."""
    from dyrygentd import wire
    from dyrygentd.client import forms
    from dyrygentd.errors import DyrygentError

    only = None if reference is None else session.handle(reference).id
    client, connection, cursor = session.client(), forms.Reconnection(forms.RECONNECT_S), None
    while True:
        try:
            page = client.journal(cursor)
        except DyrygentError as error:
            if not follow:
                raise
            connection.failed(error)
            time.sleep(connection.pause_s())
            continue
        connection.answered()
        cursor = page.next
        for entry in page.entries:
            if only not in (None, entry.workflow):
                continue
            if session.is_json:
                click.echo(wire.encode(entry))
            else:
                who = f"{render.moment(entry.at)}  {entry.by}"
                words = [who, entry.workflow, entry.verb, render.entry(entry), entry.why]
                click.echo(render.visible("  ".join(word for word in words if word)))
        if not follow:
            if not page.entries and not session.is_json:
                say("nobody has done anything")
            return
        if len(page.entries) < _AUDIT_PAGE:
            time.sleep(_FOLLOW_S)


def show_causes(workflow_id: str, causes: "wire.Causes", *, most: int, with_nodes: bool = False) -> None:
    """Show failures by cause, each with the command that retries it."""
    shown = causes.causes[:most]
    click.echo(f"{render.number(causes.failures, 'failure')}, {render.number(len(causes.causes), 'cause')}")
    for cause in shown:
        example = render.inline(cause.example or cause.cause)
        click.echo(f"\n  {cause.number}  {cause.id}  {render.number(cause.count, 'node')}: {example}")
        if with_nodes:
            more = f", … ({cause.count - len(cause.nodes):,} more)" if cause.count > len(cause.nodes) else ""
            click.echo(f"     cause: {render.inline(cause.cause)}")
            click.echo(f"     nodes: {render.inline(', '.join(cause.nodes))}{more}")
        click.echo(f"     next: {_retry_cause(workflow_id, cause.id)}")
    if len(causes.causes) > len(shown):
        say(f"and {len(causes.causes) - len(shown)} more: `{render.shell('dyrygentctl', 'show', workflow_id, '--causes')}`")


def last_entry(entries: "Sequence[wire.JournalView]", verb: str, node: str | None = None) -> str:
    """Return who did something last, when and why; empty if nobody did."""
    fitting = [entry for entry in entries if entry.verb == verb and (node is None or node in entry.nodes)]
    if not fitting:
        return ""
    last = fitting[-1]
    ago = render.duration(max(0.0, time.time() - last.at))
    why = f": {last.why}" if last.why else ""
    return render.visible(f"by {last.by} at {render.moment(last.at)}, {ago} ago{why}")


def _retry_cause(workflow_id: str, cause_id: str) -> str:
    # Not by its number: once one cause is retried, the others move up, and the next command would mean another one.
    return render.command("retry", workflow_id, flags=["--cause", cause_id])


def _ids_of_causes(handle: "Handle", standings: "Sequence[wire.StandingView]") -> dict[str, str]:
    """Return ``{node: id of its cause}`` for the nodes that stand for groups of failures."""
    if not any(standing.code == "failed" and standing.count > 1 for standing in standings):
        return {}
    return {name: cause.id for cause in handle.causes().causes for name in cause.nodes[:1]}


def _steps_of_group(workflow_id: str, standing: "wire.StandingView", causes: dict[str, str]) -> Iterator[str]:
    if standing.code == "failed" and standing.node in causes:
        yield _retry_cause(workflow_id, causes[standing.node])
        return
    # The names of a small group are known, and one command serves them all.
    are_known = 1 < standing.count <= len(standing.examples) and standing.code != "running"
    names = standing.examples if are_known else [standing.node]
    yield from _steps(workflow_id, standing.node, standing.next_step, names)


def _steps_of_node(handle: "Handle", found: "wire.Explanation") -> Iterator[str]:
    if found.code == "blocked":
        to_blame = handle.node(found.node or "").blocked_by
        if to_blame:
            yield from (render.command(verb, found.id, [to_blame]) for verb in ("retry", "skip"))
            return
    name = found.node or ""
    yield from _steps(found.id, name, found.next_step, [name])
    if found.code == "waiting" and handle.node(name).is_on_hold:
        yield render.command("release", found.id, [name])


def _steps(workflow_id: str, node: str, words: str, names: Sequence[str]) -> Iterator[str]:
    """Return commands for what the daemon advises, or its words if they are more than that.

    Args:
        node: The node that its words are about.
        names: The nodes that are meant instead of it.
    """
    said = f"`dyrygentctl retry {workflow_id} {node} --force`"
    if said in words:
        # Forcing has its price and its conditions: the words around the command have to be read.
        yield words.replace(said, f"`{render.command('retry', workflow_id, names, flags=['--force'])}`")
        return
    # Any text may be a name, so the known one is looked for first, and others are only taken out of words without it.
    own = sorted((words.find(f"`{verb} {flag}{node}`"), verb) for verb, flag in _NAMING)
    found = [verb for at, verb in own if at >= 0]
    if found:
        yield from (render.command(verb, workflow_id, names) for verb in found)
        return
    others = [] if "`" in node else _VERB.findall(words)
    if words and not others:
        yield words
    for verb, rest in others:
        yield render.command(verb, workflow_id, [rest.removeprefix("--from ")] if rest else [])


def _show_steps(steps: Sequence[str], *, indent: str) -> None:
    for number, step in enumerate(steps):
        click.echo(f"{indent}{'  or' if number else 'next'}: {render.visible(step)}")
