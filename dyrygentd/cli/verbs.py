"""The verbs: `cancel`, `pause`, `resume`, `retry`, `set-priority` for workflows, `hold`, `release`, `skip`, `rerun` for nodes.

Here they are declared, `performing` carries them out.
"""

import json
from typing import TYPE_CHECKING, Any

import click

from dyrygentd.cli import performing
from dyrygentd.cli.choosing import Choice, choosing
from dyrygentd.cli.sections import chosen_in
from dyrygentd.cli.session import Session, command
from dyrygentd.core.bounds import PRIORITY_MAX

if TYPE_CHECKING:
    WholeNumber = click.ParamType[int]

if not TYPE_CHECKING:
    WholeNumber = click.ParamType


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
@click.option("--force", is_flag=True, help="End at once what cleans up after sections, too.")
@_why
@command
@choosing
def cancel(session: Session, references: tuple[str, ...], terminate: bool, force: bool, why: str, choice: Choice) -> None:
    """End workflows now: nothing more is dispatched, and what waits in the broker is revoked.

    Without --terminate, tasks that a worker has begun go on, and are shown as late when they end. What cleans up after a section
    that has begun (its `finally`) still runs, unless there is --force. One that has finished stays as it is.

    \b
    Example: dyrygentctl cancel --label cluster=gra1 --why "wrong cluster" --dry-run
    """
    performing.on_workflows(session, "cancel", references, choice, terminate=terminate, force=force, why=why)


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
    performing.on_workflows(session, "pause", references, choice, why=why)


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
    performing.on_workflows(session, "resume", references, choice, why=why)


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
    performing.on_workflows(session, "set-priority", references, choice, priority=priority, why=why)


@click.command(short_help="Try again what failed: all of it, some nodes, or one cause.")
@click.argument("words", metavar="[REF [NODE]...]", nargs=-1)
@click.option(
    "--cause",
    default="",
    metavar="N|ID",
    help="Only what failed, was lost or cancelled for this cause (see `dyrygentctl explain REF`).",
)
@click.option("--lost", "is_lost", is_flag=True, help="Only what was lost: the same as --cause lost.")
@click.option("--section", default="", metavar="PATH", help="Only what failed, was lost or cancelled in this section; asks.")
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
    section: str,
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
    Example: dyrygentctl retry @latest --section hosts/gra1-42
    Example: dyrygentctl retry --lost --all --yes --why "the broker had lost its memory"
    """
    references, nodes = (words, ()) if is_each or choice.is_filter else (words[:1], words[1:])
    given = {"cause": _cause(cause, is_lost), "force": force, "terminate": terminate, "why": why}
    if section:
        if len(references) != 1 or nodes or given["cause"] or choice.is_filter or choice.is_dry_run:
            raise click.UsageError("--section goes with one REF, without NODE, --cause, --lost and filters")
        chosen, nodes = chosen_in(session, "retry", references[0], section, is_yes=choice.is_yes)
        references = (chosen,)
    performing.on_workflows(session, "retry", references, choice, nodes=nodes, **given)


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
    performing.on_nodes(session, "hold", reference, nodes=nodes, why=why)


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
    performing.on_nodes(session, "release", reference, nodes=nodes, why=why)


@click.command(short_help="Count nodes as succeeded and go on without them.")
@click.argument("reference", metavar="REF")
@click.argument("nodes", metavar="[NODE]...", nargs=-1)
@click.option(
    "--cause", default="", metavar="N|ID", help="All that failed, was lost or cancelled for this cause, instead of NODE."
)
@click.option("--lost", "is_lost", is_flag=True, help="All that was lost, instead of NODE.")
@click.option("--section", default="", metavar="PATH", help="All that failed, was lost or cancelled in this section; asks.")
@click.option("--yes", "is_yes", is_flag=True, help="Do not ask; needed with --section where nobody can be asked.")
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
    section: str,
    is_yes: bool,
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
    if bool(nodes) + bool(cause) + bool(section) != 1 and (section or not nodes):
        raise click.UsageError("name a node, or give --cause, --lost or --section")
    if section:
        reference, nodes = chosen_in(session, "skip", reference, section, is_yes=is_yes)
    performing.on_nodes(session, "skip", reference, nodes=nodes, cause=cause, value=decoded, terminate=terminate, why=why)


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
    performing.on_nodes(session, "rerun", reference, nodes=(*first, *further), why=why)


def _cause(cause: str, is_lost: bool) -> str:
    if cause and is_lost:
        raise click.UsageError("give --cause or --lost, not both")
    return "lost" if is_lost else cause
