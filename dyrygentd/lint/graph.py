"""The canvas as a graph: what each task is given, after containers have handed down their options."""

import inspect
import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dyrygentd.core.graph import Graph
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.policy import HandsOn
from dyrygentd.core.words import described
from dyrygentd.lint.choices import remarks_on_choices
from dyrygentd.lint.faults import Fault, listing
from dyrygentd.lint.fleet import faults_of_fleet
from dyrygentd.lint.options import is_finite, time_of
from dyrygentd.lint.report import LintReport
from dyrygentd.lint.sections import remarks_on_ends
from dyrygentd.lint.surroundings import Call, Surroundings
from dyrygentd.lint.written import Task

_LIST_MAX: Final = 1_000
"""Above it a list of results is a burden: it is copied into the message of everyone who takes it."""

_ARGUMENTS_BYTES_MAX: Final = 100_000

_VALUE_BYTES_MAX: Final = Limits().value_bytes_max
"""The daemon's default for one value, such as the list of a chord."""


class _Input(NamedTuple):
    """What a node is given by its dependencies: nothing, one value, or a list of so many."""

    values: int = 0
    is_list: bool = False

    @property
    def words(self) -> str:
        return f"a list of {self.values:,} values" if self.is_list else "a value"


def check_graph(
    graph: Graph,
    tasks: Sequence[Task],
    surroundings: Surroundings,
    report: LintReport,
    *,
    around: str = "",
    knows_arguments: bool = True,
) -> None:
    """Report on each task of a graph.

    Args:
        around: Stands before the names of its nodes.
        knows_arguments: False if there may be more arguments than stand there.
    """
    # Large workflows repeat few signatures, and the ones that are equal are one object.
    known_faults: dict[tuple[int, bool, bool], list[Fault]] = {}
    places: Iterator[Task] | None = iter(tasks) if len(tasks) == graph.task_count else None
    takers: Counter[int] = Counter()
    for fault in faults_of_fleet(surroundings.fleet, surroundings.app, takes_values=any(graph.feeds_tasks)):
        report.add_fault(fault, None)
    for name, said in remarks_on_ends(graph):
        report.add("beside-finally", None, node=name, said=said)
    for remark in remarks_on_choices(graph):
        report.add(remark.code, None, node=around + remark.node, said=remark.said, subject=remark.node)
    for node, signature in enumerate(graph.signatures):
        if signature is None:
            continue
        place = None if places is None else next(places).place
        name = around + graph.names[node]
        given = _input_of(graph, node, signature)
        is_taken = bool(graph.feeds_tasks[node])
        key = (id(signature), given.values > 0, is_taken)
        if key not in known_faults:
            known_faults[key] = list(
                _faults_of(signature, given, surroundings, is_taken=is_taken, knows_arguments=knows_arguments)
            )
        for fault in known_faults[key]:
            report.add_fault(fault, place, node=name)
        if not surroundings.has_bound and graph.policy(node).redeliveries_max is None:
            unbounded = surroundings.without_bound(signature.task)
            if unbounded is not None:
                report.add(unbounded.code, place, node=name, subject=unbounded.subject, said=unbounded.words)
        if given.is_list:
            join = graph.inputs(node)[0] if graph.input_count(node) == 1 else node
            takers[join] += 1
            if join == node and given.values <= _LIST_MAX:
                said = "a task with several dependencies takes the list of their values as its first argument"
                report.add("list-input", place, node=name, said=said)
            elif given.values > _LIST_MAX and takers[join] == 1:
                report.add("huge-list", place, node=name, subject=str(given.values), said=_words_for_list(graph, join, given))


def _input_of(graph: Graph, node: int, signature: Signature) -> _Input:
    count = graph.input_count(node)
    if graph.policy(node).is_told_the_end and not signature.immutable:
        return _Input(1)  # A summary, whatever it comes after.
    if signature.immutable or not count:
        return _Input()
    if count > 1:
        return _Input(count, is_list=True)
    dependency = graph.last_dependency(node)
    assert dependency is not None
    if graph.is_join(dependency):
        return _Input(graph.input_count(dependency), is_list=graph.policy(dependency).hands_on is not HandsOn.ONE)
    return _Input(1)


def _words_for_list(graph: Graph, join: int, given: _Input) -> str:
    share = _VALUE_BYTES_MAX // given.values
    words = f"a task takes {given.words}: more than {share:,} bytes each go beyond the daemon's limit for one value (16 MiB)"
    copies = sum(graph.takes_input(dependent) for dependent in graph.dependents(join)) if graph.is_join(join) else 1
    return f"{words}, and the list is copied into {copies:,} messages" if copies > 1 else words


def _faults_of(
    signature: Signature, given: _Input, surroundings: Surroundings, *, is_taken: bool, knows_arguments: bool
) -> Iterator[Fault]:
    try:
        call = Call(signature.task, *(json.loads(text) for text in (signature.args, signature.kwargs, signature.options)))
    except (ValueError, RecursionError) as error:
        yield Fault("unreadable-signature", signature.task, f"the arguments of '{signature.task}' cannot be read: {error}")
        return
    yield from surroundings.faults_of_options(signature.options, call.options)
    yield from _faults_of_times(signature, call.options.get("expires"), surroundings)
    yield from surroundings.faults_of_class(call, is_taken=is_taken)
    yield from _faults_of_result(call, surroundings.registry.get(call.task), is_taken=is_taken)
    arguments_bytes = len(signature.args) + len(signature.kwargs)
    if arguments_bytes > _ARGUMENTS_BYTES_MAX:
        said = f"the arguments of '{call.task}' have {arguments_bytes:,} bytes, which are stored, and sent with each attempt"
        yield Fault("large-arguments", call.task, said)
    for task in _task_names_of(call):
        yield from surroundings.faults_of_task(task)
    queue = yield from _faults_of_queue(call, surroundings)
    if queue is not None:
        for task in _task_names_of(call):
            yield from surroundings.faults_of_gap(task, queue)
    parameters = surroundings.parameters_of(call.task)
    if parameters is not None and knows_arguments:
        yield from _faults_of_arguments(call, given, parameters)


def _faults_of_times(signature: Signature, expires: Any, surroundings: Surroundings) -> Iterator[Fault]:
    now = surroundings.now
    delay_s = signature.countdown_s or max(0.0, signature.eta_at - now if signature.eta_at else 0.0)
    if delay_s:
        is_long = delay_s > surroundings.visibility_timeout_s
        limit = f"{surroundings.visibility_timeout_s:,.0f} s"
        said = f"a task starts later, beyond the broker's visibility timeout of {limit}" if is_long else ""
        yield Fault("countdown-in-daemon", "long" if is_long else "", said)
    if is_finite(expires) and 0 < expires < delay_s:
        said = f"it expires after {expires:g} s and starts after {delay_s:g} s"
        native = "it counts both from the moment of sending, and never runs it"
        said = f"{said}\nCelery: {native}\nhere: `expires` counts from the start"
        yield Fault("expires-before-start", "relative", said)
    elif (moment := time_of(expires)) is not None and now < moment <= now + delay_s:
        yield Fault("expires-before-start", "absolute", "a task expires before it starts, so that it never runs", "error")


def _faults_of_result(call: Call, task: Any, *, is_taken: bool) -> Iterator[Fault]:
    taken = ", and another task takes its value" if is_taken else ""
    if getattr(task, "ignore_result", False):
        said = f"task '{call.task}' has `ignore_result` in its class{taken}; workers before Celery 5.6.3 obey, and it never ends"
        yield Fault("ignore-result-forced", call.task + taken, said, "warning")
    elif call.options.get("ignore_result") is True:
        yield Fault("ignore-result-forced", taken, f"a task ignores its result{taken}")


def _task_names_of(call: Call) -> Iterator[str]:
    """Return the task, and the one that `celery.map` or `celery.starmap` calls. Celery's own are known everywhere."""
    inner = call.kwargs.get("task") if call.task in ("celery.map", "celery.starmap") else None
    names = [call.task, inner.get("task") if isinstance(inner, dict) else None]
    yield from (name for name in names if isinstance(name, str) and not name.startswith("celery."))


def _faults_of_queue(call: Call, surroundings: Surroundings) -> Generator[Fault, None, str | None]:
    """Check where a call goes; return the queue, if it can be told."""
    if not isinstance(call.options.get("queue"), str | None):
        return None
    try:
        queue = surroundings.queue_of(call)
    # Routers are the user's own code.
    except Exception as error:
        yield Fault("routing-failed", call.task, f"'{call.task}' cannot be routed: {described(error)}")
        return None
    if queue is not None:
        yield from surroundings.faults_of_queue(queue)
    return queue


def _faults_of_arguments(call: Call, given: _Input, parameters: inspect.Signature) -> Iterator[Fault]:
    args = [None, *call.args] if given.values else call.args
    refusal = _refusal(parameters, args, call.kwargs)
    if refusal is None:
        return
    function = f"'{call.task}{parameters}'"
    subject = f"{call.task} {refusal}"
    words = _call_words(args, call.kwargs, given)
    twice = next((name for name in _filled_by_position(parameters, len(args)) if name in call.kwargs), None)
    if twice is not None:
        yield Fault("argument-given-twice", subject, f"{function} is given {words}: `{twice}` would have two values")
    elif given.values and _refusal(parameters, call.args, call.kwargs) is None:
        said = f"{function} is given {given.words} by what precedes it, which it does not take: {refusal}"
        yield Fault("unexpected-input", subject, said)
    else:
        yield Fault("arguments-do-not-fit", subject, f"{function} is given {words}: {refusal}")


def _filled_by_position(parameters: inspect.Signature, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters.parameters.values() if parameter.kind in kinds]
    return [each.name for each in positional[:count] if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]


def _refusal(parameters: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    try:
        parameters.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def _call_words(args: Sequence[Any], kwargs: Mapping[str, Any], given: _Input) -> str:
    words = f"{len(args)} positional argument{'' if len(args) == 1 else 's'}"
    if given.values:
        words = f"{words} (the first is {given.words} from what precedes it)"
    return f"{words} and {listing(list(kwargs))}" if kwargs else words
