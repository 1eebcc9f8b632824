"""`dyrygentctl lint`: report on a canvas or definition without running it."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import FAILED, USAGE, Session, command, fail, main, say
from dyrygentd.cli.target import last_line, read
from dyrygentd.errors import ConfigurationError

if TYPE_CHECKING:
    from dyrygentd.lint import Finding

_COLOURS: Final = {"error": "red", "warning": "yellow", "info": "cyan"}


@main.command(short_help="Report what a canvas does that may not be meant.")
@click.argument("target")
@click.option("--app", "app_name", metavar="MODULE:APP", help="The Celery app: its tasks' arguments and options are checked.")
@click.option("--workers", "is_asking", is_flag=True, help="Ask running workers for their tasks and queues (needs --app).")
@click.option("--strict", "is_strict", is_flag=True, help="Exit 1 on warnings too.")
@command
def lint(session: Session, target: str, app_name: str | None, is_asking: bool, is_strict: bool) -> None:
    """Report on TARGET (as in `submit`) without running it; the daemon is not needed.

    Tells what cannot be published, where arguments do not fit, and where Celery itself would run a canvas in another way. Exit
    status: 0 fine, 1 errors were found.
    """
    from dyrygentd import wire
    from dyrygentd.lint import lint as findings_of

    if is_asking and app_name is None:
        raise click.UsageError("--workers asks over the broker of an app: give --app too")
    app = _loaded(app_name) if app_name else None
    what = read(target)
    workers = _asked(app) if is_asking else None
    findings = findings_of(
        what,
        app=app,
        known_tasks=None if workers is None else workers.tasks,
        known_queues=None if workers is None else workers.queues,
    )
    if session.is_json:
        click.echo(wire.encode(findings))
    else:
        for finding in findings:
            click.echo(_block(finding) + "\n")
    counts = Counter(finding.severity for finding in findings)
    say(_summary(counts))
    if counts["error"] or (is_strict and counts["warning"]):
        sys.exit(FAILED)


def _loaded(name: str) -> Any:
    """Import the app and its tasks."""
    from dyrygentd.transport.app import import_app
    from dyrygentd.transport.workers import load_tasks

    try:
        app = import_app(name)
    except ConfigurationError as error:
        fail(str(error), next_step=error.next_step, status=USAGE)
    try:
        load_tasks(app)
    except Exception as error:
        # Whatever the user's modules raise on import ends here, and is the user's to read.
        fail(
            f"the tasks of '{name}' cannot be imported: {last_line(error)}",
            next_step=f"try `celery -A {name} report` in the same directory and environment",
            status=USAGE,
        )
    return app


def _asked(app: Any) -> Any:
    """Return what the workers have, or None if none answered."""
    from dyrygentd.transport.workers import ask_workers

    workers = ask_workers(app)
    if not workers.names:
        say("warning: no worker answered: tasks and queues were not looked up")
        return None
    say(f"{len(workers.names)} answered: {len(workers.tasks)} tasks, queues {', '.join(sorted(workers.queues))}")
    return workers


def _block(finding: "Finding") -> str:
    from dyrygentd.cli.render import visible

    severity = click.style(finding.severity, fg=_COLOURS[finding.severity], bold=True)
    often = f" ({finding.count:,} times)" if finding.count > 1 else ""
    lines = [f"{severity}: {finding.code}{often}", *_indented(finding.message)]
    if finding.place:
        lines += _indented(f"at: {finding.place}")
    if finding.next_step:
        lines += _indented(f"next: {finding.next_step}")
    head, *rest = lines
    return "\n".join([head, *map(visible, rest)])


def _indented(text: str) -> Sequence[str]:
    return [f"  {line}" for line in text.splitlines()]


def _summary(counts: Counter[Any]) -> str:
    words = [f"{counts[word]} {word if counts[word] == 1 or word == 'info' else word + 's'}" for word in _COLOURS]
    return ", ".join(words)
