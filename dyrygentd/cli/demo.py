"""`dyrygentd demo`: see it work, with nothing installed or running before and nothing left behind."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyrygentd.cli import render
from dyrygentd.cli.session import FAILED, say
from dyrygentd.core.bounds import NODES_ACCEPTED_MAX

if TYPE_CHECKING:
    from dyrygentd.demo import Ran

_LONG = 1000
"""Workflows of so many tasks take long enough for a look at the time left."""

_ECHO_COLUMNS = 6

_LINE_INTERVAL_S = 5.0
"""Shortest time between two lines about a workflow where there is no terminal."""


@click.command(
    epilog="""Exit status: 0 if every workflow succeeded, every task was executed exactly once and none before its dependencies;
    1 if not, or if something did not start."""
)
@click.option(
    "--nodes", type=click.IntRange(1, NODES_ACCEPTED_MAX), metavar="N", help="Run a workflow of N tasks too, in ten layers."
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, metavar="N", help="Celery workers to start.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Give up when nothing has happened for so many seconds.",
)
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C, to look around.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def demo(nodes: int | None, workers: int, timeout_s: float, keep: bool, is_json: bool) -> None:
    """Run workflows on a broker, workers and a daemon of its own, and check every task.

    Starts a Redis-compatible server, Celery workers and the daemon on Unix sockets in a temporary directory, submits workflows,
    and compares what the tasks themselves recorded with the graphs that were submitted. Nothing is left behind.
    """
    from dyrygentd.demo import stage

    options = stage.Options(workers=workers, nodes=nodes, keep=keep, timeout_s=timeout_s)
    try:
        with _Show(is_json=is_json) as show:
            report = stage.run(options, show)
    except stage.Interrupted as interrupted:
        _say_on_new_line(f"{_word(interrupted.number)}: everything is stopped, nothing is left behind")
        sys.exit(128 + interrupted.number)
    if keep:
        _say_on_new_line("everything is stopped, nothing is left behind")
    else:
        show.tell(report)
        say(f"\neverything is stopped, nothing is left behind; it took {render.duration(report.seconds)}")
        if report.is_good and not is_json:
            _tell_next()
    if not report.is_good:
        sys.exit(FAILED)


class _Show:
    """Shows what happens: bars in a terminal, lines elsewhere; words to stderr, the outcome to stdout."""

    def __init__(self, *, is_json: bool) -> None:
        from rich.console import Console

        self._is_json = is_json
        self._console = Console(stderr=True, highlight=False)
        if self._console.is_terminal:
            # A ^C that the terminal shows behind the last bar must not wrap, or the bars would be drawn one line too low.
            self._console.width = max(self._console.width - _ECHO_COLUMNS, 20)
        self._bars: Any = None
        self._workflows: list[tuple[str, int]] = []
        self._told_at = 0.0

    def __enter__(self) -> "_Show":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bars()

    def begin(self, directory: str) -> None:
        say(f"everything runs in {directory} and is gone afterwards")

    def started(self, part: str, what: str, seconds: float) -> None:
        say(f"  {part:<9}{what:<34}{seconds:6.1f} s")

    def planned(self, workflows: list[tuple[str, int]]) -> None:
        say("")
        self._workflows = workflows
        self._told_at = time.monotonic()
        if not self._console.is_terminal:
            return
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

        columns: list[ProgressColumn] = [
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}", markup=False, justify="right"),
            TextColumn("{task.fields[rate]}", markup=False, justify="right"),
        ]
        if any(tasks >= _LONG for _, tasks in workflows):
            columns.append(TimeRemainingColumn(elapsed_when_finished=True))
        self._bars = Progress(*columns, console=self._console)
        for name, tasks in workflows:
            self._bars.add_task(name, total=tasks, rate="", start=False)
        self._bars.start()

    def moved(self, number: int, ended: int) -> None:
        if self._bars is None:
            self._tell_progress(number, ended)
        else:
            task = self._bars.tasks[number]
            if not task.started:
                self._bars.start_task(task.id)
            self._bars.update(task.id, completed=ended, rate=f"{task.speed:,.0f}/s" if task.speed else "")

    def said(self, number: int, words: str) -> None:
        line = f"  {self._workflows[number][0]}: {words}"
        if self._bars is not None:
            self._bars.console.print(line, markup=False, soft_wrap=True)
        else:
            say(line)

    def finished(self, number: int, seconds: float) -> None:
        name, tasks = self._workflows[number]
        if self._bars is not None:
            self._bars.update(self._bars.tasks[number].id, rate=f"{_rate(tasks, seconds)}/s")
        else:
            say(f"  {name}: {tasks:,} nodes in {seconds:.2f} s")
            self._told_at = time.monotonic()

    def kept(self, report: Any) -> None:
        self.tell(report)
        _tell_how_to_look(str(report.directory), str(report.socket))

    def tell(self, report: Any) -> None:
        """Print the outcome."""
        self._end_bars()
        click.echo(_json(report) if self._is_json else _text(report))

    def _tell_progress(self, number: int, ended: int) -> None:
        name, tasks = self._workflows[number]
        if ended < tasks and time.monotonic() - self._told_at >= _LINE_INTERVAL_S:
            say(f"  {name}: {ended:,} of {tasks:,} nodes")
            self._told_at = time.monotonic()

    def _end_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def _json(report: Any) -> bytes:
    from dyrygentd import wire

    return wire.encode(
        {
            "ok": report.is_good,
            "seconds": round(report.seconds, 3),
            "workers": report.workers,
            "directory": str(report.directory),
            "socket": str(report.socket),
            "foreign_executions": len(report.foreign),
            "workflows": [
                {
                    "name": ran.name,
                    "id": ran.id,
                    "ok": ran.is_good,
                    "state": ran.state,
                    "tasks": ran.tasks,
                    "seconds": round(ran.seconds, 3),
                    "tasks_per_s": round(ran.tasks / ran.seconds, 1) if ran.seconds else None,
                    "executed_once": ran.once,
                    "in_order": ran.in_order,
                    "result": ran.result,
                    "expected": ran.expected,
                    "problems": ran.problems,
                }
                for ran in report.ran
            ],
        }
    )


def _text(report: Any) -> str:
    ran: list[Ran] = report.ran
    tasks, once, in_order = (sum(getattr(each, field) for each in ran) for field in ("tasks", "once", "in_order"))
    heads = ("WORKFLOW", f"{'ATTEMPTS':>8}", f"{'SECONDS':>7}", f"{'PER SECOND':>10}", "EXACTLY ONCE", "IN ORDER", "RESULT")
    rows = [
        (
            each.name,
            f"{each.tasks:>8,}",
            f"{each.seconds:>7.2f}",
            f"{_rate(each.tasks, each.seconds):>10}",
            _verdict(each.once, each.tasks),
            _verdict(each.in_order, each.tasks),
            _result(each),
        )
        for each in ran
    ]
    lines = [
        "",
        render.table(heads, rows),
        "",
        f"every attempt exactly once       {_verdict(once, tasks)}, {once:,} of {tasks:,}",
        f"no task before its dependencies  {_verdict(in_order, tasks)}, {in_order:,} of {tasks:,}",
        "found by comparing what the tasks recorded with the graphs that were submitted",
    ]
    lines += [f"{each.name}: {problem}" for each in ran for problem in each.problems]
    lines += [f"{each.name} ended as {each.state}" for each in ran if each.state != "succeeded"]
    if report.foreign:
        lines.append(f"{len(report.foreign)} executions belong to no workflow, such as task {report.foreign[0]}")
    return "\n".join(lines)


def _verdict(good: int, tasks: int) -> str:
    return "yes" if good == tasks else "NO"


def _result(ran: "Ran") -> str:
    if ran.result == ran.expected:
        return "" if ran.result is None else str(ran.result)
    return f"{ran.result}, not {ran.expected}"


def _rate(tasks: int, seconds: float) -> str:
    return f"{tasks / seconds:,.0f}" if seconds else ""


def _tell_next() -> None:
    dyrygentd = _program("dyrygentd")
    rows = {
        f"{dyrygentd} demo --keep": "look around: list, show, watch, metrics",
        f"{dyrygentd} demo --nodes 10000": "a workflow of 10,000 tasks",
        f"{dyrygentd} serve --help": "run it beside your own workers",
        f"{_program('dyrygentctl')} --help": "submit, watch and cancel from a shell",
    }
    width = max(map(len, rows))
    say("\nwhat to try next")
    for command, about in rows.items():
        say(f"  {command:<{width}}  {about}")


def _tell_how_to_look(directory: str, socket: str) -> None:
    from dyrygentd.demo import REPLACEMENT

    ctl = _program("dyrygentctl", is_absolute=True)
    say(f"\nit stays up until Ctrl-C, or `kill {os.getpid()}`; in another terminal, the page with buttons")
    say(f"  {render.shell(ctl, '--socket', socket, 'ui')}")
    say("or a shell that knows where it is")
    for command in (
        render.shell("export", f"DYRYGENTD_SOCKET={socket}"),
        f"{ctl} list",
        f"{ctl} submit dyrygentd.demo:blog --watch",
        f"{ctl} submit {REPLACEMENT} -p osd=7 -p check_every_s=1",
        f"{ctl} show @latest --nodes",
        "curl --unix-socket $DYRYGENTD_SOCKET http://localhost/metrics",
        f"tail -f {directory}/dyrygentd.log",
    ):
        say(f"  {command}")
    say("what it ran so far has ended well; the replacement of osd 7 fails, and waits for you: ask `explain`")


def _program(name: str, *, is_absolute: bool = False) -> str:
    """Return how to call one of our programs: by its name if that finds the one beside this, else as this was called."""
    beside = Path(sys.argv[0]).with_name(name)
    found = shutil.which(name)
    if found is not None and (not beside.exists() or Path(found).samefile(beside)):
        return name
    if not beside.exists():
        return name
    return os.path.abspath(beside) if is_absolute else str(beside)


def _say_on_new_line(words: str) -> None:
    """Say something after a ^C that a terminal shows."""
    say(f"\n{words}" if sys.stderr.isatty() else words)


def _word(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"received {signal.Signals(number).name}"
