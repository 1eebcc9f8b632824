"""`dyrygentctl explain` and `events`: why it is not running, what can be done, and who did what."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import attempts, render
from dyrygentd.cli.ends import Ends
from dyrygentd.cli.names import hinting
from dyrygentd.cli.session import Session, command, echo_json, say, say_problems
from dyrygentd.cli.times import head, in_column, localized, moment
from dyrygentd.commands import command_on

if TYPE_CHECKING:
    from dyrygentd import wire

_VERB: Final = re.compile(r"`(retry|release|skip|resume|rerun)(?: ([^`]*))?`")
"""The daemon's next steps name verbs and nodes in words; here they become commands that can be pasted."""

_RERUN_FIRST: Final = re.compile(r"`rerun --from ([^`]*)` (?:runs what was skipped|decides anew|makes anew)")
"""What comes before the commands on a node itself, which alone would change nothing: where its value comes from."""

_EXAMPLES_MAX: Final = 5
_SHORT: Final = 8
"""Characters of an id that a terminal shows of it."""
_AUDIT_PAGE: Final = 100
_FOLLOW_S: Final = 1.0

_OR_ELSE: Final = "; or else "
_COMMAND: Final = "dyrygentctl "
_NULL: Final = ("--value", "null")
#: ``(verb, what stands before the name, and behind it)``.
_NAMING: Final = (
    ("retry", "", ""),
    ("release", "", ""),
    ("skip", "", ""),
    ("skip", "", f" {' '.join(_NULL)}"),
    ("rerun", "--from ", ""),
)
#: What is known of a group by the word for it, as the state in which `show` lists it.
_STATES: Final = {
    **{state: state for state in ("failed", "cancelled", "blocked", "waiting", "ready", "dispatching", "dispatched", "retrying")},
    **dict.fromkeys(("gate", "hold", "time", "poll", "pool"), "held"),
    **dict.fromkeys(("queued", "no-consumer", "reserved", "running", "orphaned", "finished", "unknown"), "dispatched"),
}


@click.command(short_help="Say what is wrong, or why it is not running, and what can be done.")
@click.argument("reference", metavar="[REF]", required=False)
@click.argument("node", metavar="[NODE]", required=False)
@command
def explain(session: Session, reference: str | None, node: str | None) -> None:
    """Say what is wrong and what waits for a person; with REF why a workflow, or one node of it, is not running.

    Engine, broker, workers and result backend are asked. The answer comes first, then what can be done, with commands to paste.
    Without REF it tells what keeps the daemon from its work, gates, held nodes, paused workflows and lost tasks, what is stuck,
    and what has failed in the last 24 hours; --json gives up to 100 of each kind.

    \b
    Example: dyrygentctl explain
    Example: dyrygentctl explain @latest drain
    """
    if reference is None:
        from dyrygentd.cli.overview import show_overview

        show_overview(session)
        return
    handle = session.handle(reference)
    with hinting(handle):
        found = handle.explain(node)
    if session.is_json:
        echo_json(with_steps(found))
        return
    click.echo(click.style(localized(render.visible(found.verdict)), bold=True))
    _show_decided(found.decided, indent="")
    offered: set[str] = set()
    if node is not None:
        steps = list(_steps_of_node(found))
        _show_steps(steps, indent="")
        _show_note(steps, indent="")
        if found.logs:
            click.echo(f"log: {render.visible(found.logs)}")
        for line in attempts.lines(found.attempts, found.attempts_left_out):
            click.echo(f"\n{line}")
    elif not found.standings or found.next_step != found.standings[0].next_step:
        # What is about all of it comes before what is about some of its nodes.
        steps = list(_steps(found.id, "", found.next_step, []))
        offered.update(steps)
        _show_steps(steps, indent="")
    has_failed = any(standing.code in ("failed", "cancelled") for standing in found.standings)
    for standing in found.standings:
        examples = ""
        if standing.count > 1:
            examples = f"\n  {_names(found.id, standing)}"
        click.echo(f"\n{render.number(standing.count, 'node')}: {localized(render.visible(standing.text))}{examples}")
        if standing.decided != found.decided:
            _show_decided(standing.decided, indent="  ")
        if standing.gate_since:
            click.echo(
                f"  since {moment(standing.gate_since)}, {render.duration(max(0.0, time.time() - standing.gate_since))} ago"
            )
        # What blocks the others has its commands already.
        if not (standing.code == "blocked" and has_failed):
            # One gate may be all that hundreds of groups wait for: each command is offered once.
            steps = [step for step in _steps_of_group(found.id, standing) if step not in offered]
            offered.update(steps)
            _show_steps(steps, indent="  ")
            _show_note(steps, indent="  ")
    say_problems(found.problems)


@click.command(short_help="Show the journal: who did what, when and why.")
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--follow", is_flag=True, help="Go on with what is done from now on, until Ctrl-C.")
@command
def events(session: Session, reference: str | None, follow: bool) -> None:
    """Show the journal, oldest first: who did what, when and why. Without REF: of all workflows, the newest 100 entries.

    --follow goes on past the end of a workflow, which can be retried, until Ctrl-C, and tells the ends of workflows, too. --json
    prints a list; without REF or with --follow one object a line. What is empty is left out of it. Of all workflows a terminal
    shows names of users and beginnings of ids; `events REF` and a pipe have them whole.

    \b
    Example: dyrygentctl events @latest
    Example: dyrygentctl events --follow
    """

    if reference is None or follow:
        _audit(session, reference, follow=follow)
        return
    entries = session.handle(reference).journal()
    if session.is_json:
        echo_json(entries)
        return
    if not entries:
        say("nobody has done anything to it")
        return
    rows = [(in_column(entry.at), entry.by, entry.verb, render.entry(entry), entry.why) for entry in entries]
    click.echo(render.table((head("AT"), "WHO", "VERB", "WHAT", "WHY"), rows))


@click.command(short_help="Print all of a workflow as JSON.")
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
    handle = session.handle(reference)
    if not is_definition:
        echo_json(handle.export())
        return
    # A copy is another workflow: it must neither be taken for this one nor share its tasks' ids.
    document = json.loads(handle.definition())
    document.pop("key", None)
    for node in document["nodes"]:
        node.pop("task_id", None)
        node.pop("adopted", None)
    echo_json(document)


def _audit(session: Session, reference: str | None, *, follow: bool) -> None:
    """Show what was done to all workflows, or one, and what is done from now on; a daemon that restarts is waited for."""
    from dyrygentd.client import patience
    from dyrygentd.errors import DyrygentError

    only = None if reference is None else session.handle(reference).id
    client, connection, cursor = session.client(), patience.Reconnection(patience.RECONNECT_S), None
    ends, is_whole = Ends(client, only=only), render.screen() is None
    while True:
        try:
            page, ended = client.journal(cursor), ends.new() if follow else []
        except DyrygentError as error:
            if not follow:
                raise
            connection.failed(error)
            time.sleep(connection.pause_s())
            continue
        connection.answered()
        cursor = page.next
        for entry in sorted([*page.entries, *ended], key=lambda entry: entry.at):
            if only not in (None, entry.workflow):
                continue
            if session.is_json:
                echo_json(entry)
            else:
                by, workflow = (entry.by, entry.workflow) if is_whole else (entry.by.partition(" (")[0], entry.workflow[:_SHORT])
                words = [f"{moment(entry.at)}  {by}", workflow, entry.verb, render.entry(entry), entry.why]
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
    lost = f"{render.number(causes.lost, 'lost task')}, " if causes.lost else ""
    failures = "" if lost and not causes.failures else f"{render.number(causes.failures, 'failure')}, "
    click.echo(f"{failures}{lost}{render.number(len(causes.causes), 'cause')}")
    for cause in shown:
        example = render.inline(cause.example or cause.cause)
        click.echo(f"\n  {cause.number}  {cause.id}  {render.number(cause.count, 'node')}: {example}")
        if cause.logs:
            click.echo(f"     log: {render.visible(cause.logs)}")
        if with_nodes:
            more = f", … ({cause.count - len(cause.nodes):,} more)" if cause.count > len(cause.nodes) else ""
            click.echo(f"     cause: {render.inline(cause.cause)}")
            click.echo(f"     nodes: {render.inline(', '.join(cause.nodes))}{more}")
        _show_steps(_steps_of_cause(workflow_id, cause), indent="     ")
    if len(causes.causes) > len(shown):
        say(f"and {len(causes.causes) - len(shown)} more: `{render.shell('dyrygentctl', 'show', workflow_id, '--causes')}`")


def show_tried_again(workflow_id: str, causes: "wire.Causes", *, most: int) -> None:
    """Show what has failed and is tried again, by cause, those first that failed most often."""
    found = sorted(causes.tried_again, key=lambda each: -each.most)
    if not found:
        return
    click.echo(f"\nfailed, and tried again: {render.number(causes.tried_again_count, 'node')}")
    for each in found[:most]:
        click.echo(f"  {render.inline(each.text)}")
        names = each.nodes if each.count == len(each.nodes) else []
        flags = [] if names else ["--state", "retrying,dispatched"]
        _show_steps(
            [render.command("skip", workflow_id, names)] if names else [render.shell("dyrygentctl", "show", workflow_id, *flags)],
            indent="    ",
        )
    if len(found) > most:
        say(f"and {len(found) - most} more causes: `{render.shell('dyrygentctl', 'show', workflow_id, '--causes')}`")


def _show_decided(entry: "wire.JournalView | None", *, indent: str) -> None:
    """Show who brought it about, when and why."""
    if entry is not None:
        click.echo(f"{indent}{last_entry([entry], entry.verb)}")


def last_entry(entries: "Sequence[wire.JournalView]", verb: str, node: str | None = None) -> str:
    """Return who did something last, when and why; empty if nobody did."""
    fitting = [entry for entry in entries if entry.verb == verb and (node is None or node in entry.nodes)]
    if not fitting:
        return ""
    return render.decided(fitting[-1])


def _steps_of_cause(workflow_id: str, cause: "wire.CauseView") -> list[str]:
    """Return what can be done about all of a cause; first what is of use where another attempt would end in the same way."""
    from dyrygentd.core.child_causes import failed_below
    from dyrygentd.core.lost_causes import ENDED_SILENTLY
    from dyrygentd.core.without_value import is_without_value

    # Not by its number: once one cause is retried, the others move up, and the next command would mean another one.
    flags = ["--cause", cause.id]
    retry, skip = (render.command(verb, workflow_id, flags=flags) for verb in ("retry", "skip"))
    if is_without_value(cause.example):
        return [render.command("skip", workflow_id, flags=[*flags, *_NULL]), retry]
    below = failed_below(cause.cause, cause.example)
    look = [render.command("explain", below)] if below else []
    return [skip, retry] if ENDED_SILENTLY in cause.cause else [*look, retry, skip]


def _names(workflow_id: str, standing: "wire.StandingView") -> str:
    """Name the first few of a group, how many more there are, and what lists all of them."""
    shown = standing.examples[:_EXAMPLES_MAX]
    names, more = render.inline(", ".join(shown)), standing.count - len(shown)
    if not more:
        return names
    # What is lost may be in flight still, or held for a person.
    state = ("held" if standing.cause else "dispatched") if standing.code == "lost" else _STATES.get(standing.code, "")
    where = f" ({render.shell('dyrygentctl', 'show', workflow_id, '--state', state)})" if state else ""
    return f"{names} and {more:,} more{where}"


def with_steps(found: "wire.Explanation") -> "dict[str, Any]":
    """Return an explanation as plain data, with what the text prints as next steps: commands to paste, or words."""
    from dyrygentd import wire

    document: dict[str, Any] = json.loads(wire.encode(found))
    own = _steps_of_node(found) if found.node is not None else _steps(found.id, "", found.next_step, [])
    document["next_steps"] = list(own)
    for shown, standing in zip(document.get("standings", []), found.standings, strict=True):
        shown["next_steps"] = list(_steps_of_group(found.id, standing))
    return document


def _steps_of_group(workflow_id: str, standing: "wire.StandingView") -> Iterator[str]:
    is_named = standing.code == "cancelled" and standing.count <= len(standing.examples)
    if standing.cause and standing.code in ("failed", "lost", "cancelled") and not is_named:
        yield from _steps(workflow_id, standing.node, standing.next_step, [], ["--cause", standing.cause])
        return
    # The names of a small group are known, and one command serves them all.
    are_known = 1 < standing.count <= len(standing.examples) and standing.code != "running"
    names = standing.examples if are_known else [standing.node]
    yield from _steps(workflow_id, standing.node, standing.next_step, names)


def _steps_of_node(found: "wire.Explanation") -> Iterator[str]:
    if found.code == "blocked" and found.blocked_by:
        yield from (render.command(verb, found.id, [found.blocked_by]) for verb in ("retry", "skip"))
        return
    name = found.node or ""
    if found.code == "waiting" and found.state == "paused":
        yield render.command("resume", found.id)
    yield from _steps(found.id, name, found.next_step, [name])
    if found.code == "waiting" and found.is_on_hold:
        yield render.command("release", found.id, [name])


def _steps(workflow_id: str, node: str, words: str, names: Sequence[str], flags: Sequence[str] = ()) -> Iterator[str]:
    """Return commands for what the daemon advises, or its words if they are more than that.

    Args:
        node: The node that its words are about.
        names, flags: The nodes that are meant instead of it, or what means them.
    """
    said = f"`{command_on('retry', workflow_id, [node], force=True)}`"
    if said in words:
        # Forcing has its price and its conditions: the words around the command have to be read.
        words = words.replace(said, f"`{render.command('retry', workflow_id, names, flags=['--force'])}`")
        skip = f"`{command_on('skip', workflow_id, [node])}`"
        yield words.replace(skip, f"`{render.command('skip', workflow_id, names)}`")
        return
    # Any text may be a name, so the known one is looked for first, and others are only taken out of words without it.
    own = sorted((words.find(f"`{verb} {before}{node}{after}`"), verb, after) for verb, before, after in _NAMING)
    found = [(verb, after.split()) for at, verb, after in own if at >= 0]
    if found:
        yield from _first_of_all(words)
        if before := _RERUN_FIRST.match(words):
            yield render.command("rerun", workflow_id, [before[1]])
        yield from (render.command(verb, workflow_id, names, flags=[*flags, *after]) for verb, after in found)
        yield from _last_of_all(words)
        return
    others = [] if "`" in node else _VERB.findall(words)
    if words and not others:
        yield words
    for verb, rest in others:
        yield render.command(verb, workflow_id, [rest.removeprefix("--from ")] if rest else [])


def _first_of_all(words: str) -> Iterator[str]:
    """Return what has to be done before the commands, which would end in the same way again without it."""
    first, then, _ = words.partition("; then `")
    if then:
        yield first


def _last_of_all(words: str) -> Iterator[str]:
    """Return what can be done instead of all commands."""
    last = words.partition(_OR_ELSE)[2]
    if last:
        yield last


def _show_note(steps: Sequence[str], *, indent: str) -> None:
    """Say what a command means that hands on a value."""
    if any(step.startswith(f"{_COMMAND}skip ") and " ".join(_NULL) in step for step in steps):
        click.echo(
            f"{indent}(null takes the place of what was returned then: if what comes after needs a value, give that instead)"
        )


def _show_steps(steps: Sequence[str], *, indent: str) -> None:
    before = ""
    for step in steps:
        # What is told in words first is to be done before the command, and not instead of it.
        label = "next" if not before else "then" if not before.startswith(_COMMAND) and step.startswith(_COMMAND) else "  or"
        click.echo(f"{indent}{label}: {render.visible(step)}")
        before = step
