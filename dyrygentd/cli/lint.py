"""`dyrygentctl lint`: report on a canvas or definition without running it."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import apps, documents, render
from dyrygentd.cli.session import FAILED, Session, command, echo_json, pairs, say
from dyrygentd.cli.target import read

if TYPE_CHECKING:
    from dyrygentd.lint import Finding

#: Workers that are named.
_WORKERS_MAX: Final = 10
#: Tasks that are nobody's own.
_OF_OTHERS: Final = ("celery.", "dyrygentd.")
_COLOURS: Final = {"error": "red", "warning": "yellow", "info": "cyan"}


@click.command(short_help="Report what a canvas does that may not be meant.")
@click.argument("target")
@click.option("--app", "app_name", metavar="MODULE:APP", help="The Celery app: its tasks' arguments and options are checked.")
@click.option(
    "-p",
    "--parameter",
    "arguments",
    metavar="K=V",
    multiple=True,
    callback=pairs,
    help="Argument of a function (JSON or text), or value of a definition's parameter; may be repeated.",
)
@click.option("--workers", "is_asking", is_flag=True, help="Ask running workers for their tasks and queues (needs --app).")
@click.option("--strict", "is_strict", is_flag=True, help="Exit 1 on warnings too.")
@command
def lint(
    session: Session, target: str, app_name: str | None, arguments: dict[str, str], is_asking: bool, is_strict: bool
) -> None:
    """Report on TARGET (as in `submit`) without running it; the daemon is not needed.

    A function is called with what -p says, so that CI can look at canvases that are built from arguments.

    Tells what cannot be published, where arguments do not fit, and where Celery itself would run a canvas in another way. Exit
    status: 0 fine, 1 errors were found.
    """
    from dyrygentd.lint import lint as findings_of

    if is_asking and app_name is None:
        raise click.UsageError("--workers asks over the broker of an app: give --app too")
    app = apps.loaded(app_name) if app_name else None
    what = read(target, arguments)
    if isinstance(what, bytes):
        documents.refuse_if_no_json(target, what)
    workers = _asked(app) if is_asking else None
    findings = findings_of(
        what,
        app=app,
        fleet=workers,
        # Nothing else imports it: it is there if the app has it.
        imports_companion="dyrygentd.worker" in sys.modules,
    )
    if session.is_json:
        echo_json(findings)
    else:
        for finding in findings:
            click.echo(_block(finding) + "\n")
    if app is None:
        say("without --app nothing was compared with task classes, routes and settings")
    counts = Counter(finding.severity for finding in findings)
    say(_summary(counts))
    if counts["error"] or (is_strict and counts["warning"]):
        sys.exit(FAILED)


def _asked(app: Any) -> Any:
    """Return what the workers have, or None if none answered."""
    workers = apps.asked(app)
    if not workers.workers:
        say("warning: no worker answered: tasks and queues were not looked up")
        if workers.silent_count:
            say(f"{workers.silent_count} got the question; those that refuse JSON (`accept_content`) do not answer")
        return None
    for worker in workers.workers[:_WORKERS_MAX]:
        own = sum(not task.startswith(_OF_OTHERS) for task in worker.tasks)
        say(f"{worker.name} answered: {render.number(own, 'task')}, queues {', '.join(sorted(worker.queues)) or '?'}")
    if len(workers.workers) > _WORKERS_MAX:
        say(f"and {len(workers.workers) - _WORKERS_MAX} more")
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
