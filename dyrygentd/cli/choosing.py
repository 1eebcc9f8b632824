"""Which workflows a verb is for, if none is named: the options of a filter."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

from dyrygentd.cli.session import Session, pairs

STATES: Final = ("scheduled", "running", "paused", "succeeded", "failed", "cancelled")


UNFINISHED: Final = ("scheduled", "running", "paused")
"""Those that a workflow leaves again without anybody's help, or that a person has paused."""

MEANT_STATES: Final = {
    "cancel": UNFINISHED,
    "pause": ("scheduled", "running"),
    "resume": ("paused",),
    "set-priority": UNFINISHED,
    # Not the cancelled ones, unless somebody says so: they ended because a person wanted it.
    "retry": ("running", "paused", "failed"),
}
"""The states that a filter without a state means: those in which the verb does something."""


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
