"""Mirrors ``celery_dyrygent.workflows.workflow``: the builder, its hooks, and a tick that hands over and looks.

The original's tick published tasks; the daemon does that now. What is left of it here: hand the workflow over if that was not
done yet, see how far it is, run the hooks. A tick may be repeated, in any process: the workflow's id is the key of the
submission, and the daemon's id travels in ``stats``, which the original carries along without looking.

Long because the original's class is one, with this surface, and programs derive theirs from it.
"""

import logging
import os
import random
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Self
from uuid import uuid4

from celery.canvas import Signature, _chain, chord, chunks, group, maybe_signature

from dyrygentd import wire
from dyrygentd.client import patience
from dyrygentd.client.sync import Client
from dyrygentd.compat.celery_dyrygent.adoption import adopted_definition, node_names
from dyrygentd.compat.celery_dyrygent.celery import inspect
from dyrygentd.compat.celery_dyrygent.workflows.exceptions import WorkflowException
from dyrygentd.compat.celery_dyrygent.workflows.hooks import WorkflowSignalMixin
from dyrygentd.compat.celery_dyrygent.workflows.node import WorkflowNode
from dyrygentd.errors import DyrygentError

logger = logging.getLogger(__name__)

Nodes = list[WorkflowNode]
Dependencies = Sequence[WorkflowNode] | None
_Walk = Generator[tuple[Any, Dependencies], Nodes, Nodes]

#: Where the daemon's id of the workflow is kept in ``stats``.
_ID_IN_STATS: Final = "dyrygentd_id"
_FINISHED: Final = {"succeeded": True, "skipped": True, "failed": False, "cancelled": False}
_RUNNING: Final = frozenset({"dispatching", "dispatched", "retrying"})
#: After a tick that saw new tasks the worker looks again soon, as in the original.
_ACTIVE_COUNTDOWN_S: Final = 2


class CeleryWorkflowMixin:
    """Reads canvases. Only the order counts: tasks keep their own arguments, and get no values of others."""

    def add_signature(self, signature: Any, dependencies: Dependencies = None) -> WorkflowNode:
        """Add one frozen signature."""
        raise NotImplementedError

    def add_celery_canvas(self, canvas: Any, dependencies: Dependencies = None) -> Nodes:
        """Add a canvas of any kind; return the nodes that whatever comes next depends on."""
        return self._read(canvas, dependencies)

    def add_celery_signature(self, signature: Any, dependencies: Dependencies = None) -> Nodes:
        """Add one task, and give it an id if it has none."""
        signature.freeze()
        return [self.add_signature(signature, dependencies)]

    def add_celery_chain(self, chain: Any, dependencies: Dependencies = None) -> Nodes:
        """Add steps that follow each other."""
        return self._run(self._walk_chain(chain, dependencies))

    def add_celery_group(self, group: Any, dependencies: Dependencies = None) -> Nodes:
        """Add tasks side by side. An empty group is worth what precedes it."""
        return self._run(self._walk_members(inspect.get_group_tasks(group), dependencies))

    def add_celery_chord(self, chord: Any, dependencies: Dependencies = None) -> Nodes:
        """Add a header, and a body after all of it. Without a body it is a group."""
        return self._run(self._walk_chord(chord, dependencies))

    def _read(self, canvas: Any, dependencies: Dependencies) -> Nodes:
        """Add one part of a canvas: a task at once, anything else by its walk."""
        walk = self._walk_of(canvas, dependencies)
        if walk is None:
            return self.add_celery_signature(canvas, dependencies)
        return self._run(walk)

    def _walk_of(self, canvas: Any, dependencies: Dependencies) -> _Walk | None:
        match canvas:
            case chord():
                return self._walk_chord(canvas, dependencies)
            case _chain():
                return self._walk_chain(canvas, dependencies)
            case group():
                return self._walk_members(inspect.get_group_tasks(canvas), dependencies)
            case chunks():
                return self._walk_members(canvas.group().tasks, dependencies)
            case Signature():
                return None
            case _:
                raise WorkflowException(
                    f"a '{type(canvas).__name__}' is no canvas", next_step="pass a signature, chain, group or chord"
                )

    def _run(self, walk: _Walk) -> Nodes:
        """Run a walk and those it asks for. They are a list, so depth costs no recursion."""
        under_way: list[_Walk] = [walk]
        found: Any = None
        while True:
            try:
                canvas, dependencies = under_way[-1].send(found)
            except StopIteration as stop:
                under_way.pop()
                found = stop.value
                if not under_way:
                    return list(found)
                continue
            inner = self._walk_of(canvas, dependencies)
            found = self.add_celery_signature(canvas, dependencies) if inner is None else None
            if inner is not None:
                under_way.append(inner)

    def _walk_chain(self, chain: Any, dependencies: Dependencies) -> _Walk:
        for step in inspect.get_chain_tasks(chain):
            dependencies = yield _signature(step), dependencies
        return _listed(dependencies)

    def _walk_members(self, members: Any, dependencies: Dependencies) -> _Walk:
        found: Nodes = []
        for member in members:
            found += yield _signature(member), dependencies
        return found or _listed(dependencies)

    def _walk_chord(self, chord: Any, dependencies: Dependencies) -> _Walk:
        body, header = inspect.get_chord_tasks(chord)
        found = yield from self._walk_members(header, dependencies)
        return found if body is None else (yield _signature(body), found)


class WorkflowState:
    """States of a workflow, in celery-dyrygent's words."""

    INITIAL = "INITIAL"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    ERROR = "ERROR"


class WorkflowAlreadyRunningException(WorkflowException):
    """Never raised: the daemon takes a workflow once, and a second processor only looks."""


class Workflow(WorkflowSignalMixin, CeleryWorkflowMixin):
    """A graph of tasks by task id.

    Attributes:
        nodes: ``{task id: WorkflowNode}``.
        running: ``{task id: 1}`` of what is at a worker or in the broker, as of the last look.
        finished: ``{task id: succeeded}``, as of the last look.
        id: None until the workflow is submitted, unless `freeze` made one; then it is the workflow's name at the daemon.
        socket: The daemon's socket, for all workflows. Default: ``$DYRYGENTD_SOCKET``, the system's, the user's.
        via_worker: `apply_async` sends the processor task, and the worker that gets it hands the workflow over.
    """

    workflow_processor_task: ClassVar[Any] = None
    socket: ClassVar[str | os.PathLike[str] | None] = None
    via_worker: ClassVar[bool] = False
    max_processing_time: int = int(timedelta(days=7).total_seconds())

    #: What `to_dict` writes as it is, and what an older dict lacks.
    straight_serializables: ClassVar[dict[str, Any]] = {
        "running": {},
        "finished": {},
        "processing_limit_ts": None,
        "version": 1,
        "retry_policy": ["random", 3, 10],
        "id": None,
        "state": WorkflowState.INITIAL,
        "tasks_options": {},
        "workflow_options": {},
        "custom_payload": {},
    }
    logger = logger

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.state = WorkflowState.INITIAL
        self.nodes: dict[str, WorkflowNode] = {}
        self.running: dict[str, int] = {}
        self.finished: dict[str, bool] = {}
        self.id: str | None = None
        self.processing_limit_ts: int | None = None
        self.version = 1
        self.set_retry_policy("random", 10, 30)
        self.stats: dict[str, Any] = {"last_apply_async_tick": 0, "ticks": 0, "consecutive_celery_error_ticks": 0}
        self.custom_payload: dict[str, Any] = {}
        self.tasks_options: dict[str, Any] = {}
        self.workflow_options: dict[str, Any] = dict(options or {})
        self._signature: Any = None
        self._active_tick = False
        # Makes a repeated apply_async harmless while there is no id.
        self._key = str(uuid4())

    def __repr__(self) -> str:
        return f"<Workflow {self.id} {self.state} nodes={len(self.nodes)} finished={len(self.finished)}>"

    # --- building ---------------------------------------------------------------------------------------------------

    def add_signature(self, signature: Any, dependencies: Dependencies = None) -> WorkflowNode:
        """Add one frozen signature, to be run when those it depends on have succeeded."""
        node = WorkflowNode(signature)
        if node.id in self.nodes:
            raise WorkflowException(
                f"Looks like signature '{signature}' is already added to the workflow", next_step="add a `signature.clone()`"
            )
        for required in dependencies or ():
            node.add_dependency(required)
        self.nodes[node.id] = node
        return node

    def skip_tasks(self, task_ids: Sequence[str]) -> None:
        """Mark tasks as done before the workflow is submitted; whatever they depend on has to be among them."""
        if self.dyrygentd_id is not None:
            raise WorkflowException(
                f"workflow '{self.id}' is at the daemon already", next_step=f"`dyrygentctl skip {self.dyrygentd_id} NODE`"
            )
        for task_id in task_ids:
            if any(dependency not in task_ids for dependency in self.nodes[task_id].dependencies):
                raise WorkflowException("Can't mark dependant task as finished when not all parents finished")
        for task_id in task_ids:
            self.finished[task_id] = True

    def iterate_dependencies(self) -> Iterator[tuple[WorkflowNode, WorkflowNode | None]]:
        """Go through all pairs of a node and one that it waits for, or None; by id."""
        for _, node in sorted(self.nodes.items()):
            for dependency in sorted(node.dependencies):
                yield node, self.nodes[dependency]
            if not node.dependencies:
                yield node, None

    def simulate_tick(self) -> bool | None:
        """Pretend that what runs is done, and what can run does; return whether anything does. The daemon is not asked."""
        self.finished.update(dict.fromkeys(self.running, True))
        self.running = {}
        self.running = {node.id: True for node in self.get_signatures_to_run()}
        return True if self.running else None

    def get_unlocked_dependencies(self) -> set[str]:
        """Return the ids of the tasks that succeeded."""
        return {task_id for task_id, succeeded in self.finished.items() if succeeded}

    def get_signatures_to_run(self) -> Nodes:
        """Return the nodes that neither run nor have finished, and wait for nothing."""
        unlocked = self.get_unlocked_dependencies()
        return [
            node
            for node in self.nodes.values()
            if node.id not in self.running and node.id not in self.finished and unlocked.issuperset(node.dependencies)
        ]

    # --- options ----------------------------------------------------------------------------------------------------

    def set_max_processing_time(self, seconds: float) -> None:
        """Set the time after which the workflow is given up; it becomes the workflow's deadline at the daemon."""
        self.max_processing_time = int(seconds)

    def evaluate_processing_limit(self) -> None:
        """Start the clock."""
        self.processing_limit_ts = int(time.time()) + self.max_processing_time

    def check_processing_time(self) -> None:
        """Raise `WorkflowException` if the time is over."""
        if self.processing_limit_ts is not None and time.time() > self.processing_limit_ts:
            raise WorkflowException("Workflow is processed for too long")

    def set_retry_policy(self, retry_type: str, *retry_args: int) -> None:
        """Set how often the processor task looks, where there is one: ``("random", min_s, max_s)``. The daemon needs no ticks."""
        if retry_type != "random":
            raise WorkflowException(f'Invalid retry policy, got "{retry_type}"')
        self.retry_policy: list[Any] = [retry_type, *retry_args]

    def get_retry_countdown(self) -> int:
        """Return how long the processor task waits for its next look."""
        _, least, most = self.retry_policy
        if not 0 < least <= most:
            raise WorkflowException(f"the retry policy {self.retry_policy} has no times above 0 in ascending order")
        countdown = random.randint(least, most)
        return min(countdown, _ACTIVE_COUNTDOWN_S) if self._active_tick else countdown

    # --- to and fro -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the workflow as celery-dyrygent writes it; either library reads it."""
        return {
            "nodes": {node.id: node.to_dict() for node in self.nodes.values()},
            **{name: getattr(self, name) for name in self.straight_serializables},
            "stats": self.stats,
        }

    @classmethod
    def from_dict(cls, workflow_dict: Mapping[str, Any]) -> Self:
        """Read a workflow that either library has written."""
        workflow = cls()
        workflow.nodes = {task_id: WorkflowNode.from_dict(node) for task_id, node in workflow_dict["nodes"].items()}
        for name, default in cls.straight_serializables.items():
            # A copy, since the original shares the defaults among all workflows.
            setattr(workflow, name, workflow_dict.get(name, default.copy() if isinstance(default, dict | list) else default))
        workflow.stats.update(workflow_dict.get("stats") or {})
        return workflow

    def to_retry_dict(self) -> dict[str, Any]:
        """Return what the processor sends to itself.

        All that has not finished is said to run: should a worker with celery-dyrygent get the message after a way back, it waits
        for the tasks that the daemon publishes, and publishes none itself.
        """
        written = self.to_dict()
        if self.dyrygentd_id is not None:
            written["running"] = {task_id: 1 for task_id in self.nodes if task_id not in self.finished}
        return written

    def definition(self) -> dict[str, Any]:
        """Return the definition document that is submitted; `dyrygentctl submit` and `Client.submit` take it too."""
        app = getattr(self.workflow_processor_task, "app", None)
        return adopted_definition(self.to_dict(), key=self.id or self._key, app=app)

    # --- running ----------------------------------------------------------------------------------------------------

    @property
    def dyrygentd_id(self) -> str | None:
        """The daemon's id of the workflow, None before it is submitted."""
        found: str | None = self.stats.get(_ID_IN_STATS)
        return found

    @classmethod
    def set_workflow_processor_task(cls, task: Any) -> None:
        """Tell which Celery task processes workflows; `register_workflow_processor` does."""
        cls.workflow_processor_task = task

    def freeze(self) -> Any:
        """Make the signature of the processor task with the workflow in it; a worker that gets it hands the workflow over.

        The workflow has an id from here on.
        """
        if self.workflow_processor_task is None:
            raise WorkflowException(
                "Can't execute workflow, processing task is not set."
                " Please register the task using `register_workflow_processor` method."
            )
        self.evaluate_processing_limit()
        self._signature = self.workflow_processor_task.subtask(kwargs={"workflow_dict": self.to_dict()})
        self._signature.freeze()
        self.id = self._signature.id
        return self._signature

    def apply_async(self, options: Mapping[str, Any] | None = None) -> Any:
        """Submit the workflow; return when the daemon has it on disk.

        Args:
            options: Celery's options for each task, going before the task's own.

        Returns:
            WorkflowResult: It waits, asks and cancels. With ``via_worker`` it is Celery's result of the processor task.

        Raises:
            DyrygentError: The daemon cannot be reached or refuses. Calling this again is harmless.
        """
        from dyrygentd.compat.celery_dyrygent.result import WorkflowResult

        self.tasks_options = dict(options or {})
        if self.via_worker:
            signature = self._signature or self.freeze()
            signature.kwargs["workflow_dict"]["tasks_options"] = self.tasks_options
            return signature.apply_async(**self.workflow_options)
        for name in ("link", "link_error"):
            if self.workflow_options.get(name):
                raise WorkflowException(
                    f"the workflow's option '{name}' was for the processor task, and there is none",
                    next_step="add a node after the last ones, connect to `on_finish`, or register with via_worker=True",
                )
        if self.processing_limit_ts is None:
            self.evaluate_processing_limit()
        if not self.nodes:
            self.id = self.id or self._key
            self.tick()
        elif self.dyrygentd_id is None:
            with Client(self.socket) as client:
                self._hand_over(client)
            assert self.id is not None
            self.warn_if_unfollowed(self.id)
        assert self.id is not None
        return WorkflowResult(self.id, workflow=self)

    def tick(self) -> bool:
        """Hand the workflow over if that was not done, see how far it is, and run the hooks; return whether it still runs.

        A daemon that is away is waited for: the next tick asks again.

        Raises:
            DyrygentError: The daemon refuses the workflow, or knows nothing of it.
            WorkflowException: It took too long.
        """
        try:
            self.set_state(WorkflowState.RUNNING)
            is_running = self._tick()
        except Exception:
            self.set_state(WorkflowState.ERROR)
            raise
        if not is_running:
            self.set_state(WorkflowState.SUCCESS if self.is_success() else WorkflowState.FAILURE)
        return is_running

    def update_pending(self) -> None:
        """Bring ``running`` and ``finished`` up to date; no hook runs."""
        if self.dyrygentd_id is not None:
            with Client(self.socket) as client:
                self._take(client.handle(self.dyrygentd_id).nodes())

    def is_success(self) -> bool:
        """Tell whether every task has succeeded, as of the last look."""
        return self.nodes.keys() == self.finished.keys() and all(self.finished.values())

    @property
    def has_ended(self) -> bool:
        """Tell whether the last look found the workflow at its end."""
        return self.state in (WorkflowState.SUCCESS, WorkflowState.FAILURE, WorkflowState.ERROR)

    def set_state(self, state: str) -> None:
        """Change the state, and tell ``on_state_change`` if it is another."""
        if state != self.state:
            self.state = state
            self.emit("on_state_change", state)
        if self.has_ended:
            self.note_followed()

    def get_tasks_state(self, task_ids: Sequence[str]) -> dict[str, inspect.ResultState]:
        """Return what Celery's result backend says about tasks. Attempts after the first have ids that the daemon knows."""
        return {task_id: inspect.get_task_state(task_id) for task_id in task_ids}

    def pause_between_looks_s(self, interval_s: float) -> float:
        """Return how long to wait until the next look: for ever, as it were, if no hook wants to know before the end."""
        if not self.hooks["after_active_tick"]:
            return patience.WAIT_POLL_S
        # A look costs a listing of all nodes; large workflows are looked at less often.
        return max(interval_s, len(self.nodes) / 2000)

    def are_scheduled(self, nodes_to_run: Any) -> Any:
        """Not available."""
        raise _gone("are_scheduled", "the daemon publishes each task once")

    def schedule_node_exec(self, node: Any) -> Any:
        """Not available."""
        raise _gone("schedule_node_exec", "call apply_async(), and the daemon publishes tasks")

    def reschedule_node_exec(self, node: Any) -> Any:
        """Not available."""
        raise _gone("reschedule_node_exec", f"`dyrygentctl retry {self.dyrygentd_id or 'WORKFLOW'} NODE`")

    def check_consecutive_fails(self) -> Any:
        """Not available."""
        raise _gone("check_consecutive_fails", "`dyrygentctl stats` tells what the daemon meets with")

    def _tick(self) -> bool:
        self.stats["ticks"] += 1
        self._active_tick = False
        if not self.nodes:
            self.emit("on_finish")
            return False
        with Client(self.socket) as client:
            try:
                if self.dyrygentd_id is None:
                    self.check_processing_time()
                    self._hand_over(client)
                assert self.dyrygentd_id is not None
                view = client.get(self.dyrygentd_id)
                if view.is_finished or self.hooks["after_active_tick"]:
                    self._take(client.handle(self.dyrygentd_id).nodes())
            except DyrygentError as error:
                if not self._is_worth_waiting(error):
                    raise
                self.check_processing_time()
                logger.warning("workflow '%s': %s; the next tick asks again", self.id, error)
                return True
        if not view.is_finished:
            if self._active_tick:
                self.emit("after_active_tick")
            return True
        if self._is_overdue(view):
            raise WorkflowException("Workflow is processed for too long")
        if self._active_tick:
            self.emit("after_active_tick")
        self.emit("on_finish")
        return False

    def _hand_over(self, client: Client) -> None:
        document = self.definition()
        start_at = _start_at(self.workflow_options) if not self.via_worker else None
        if start_at is not None:
            document.setdefault("policy", {})["start_at"] = start_at
        handle = client.submit(document)
        self.stats[_ID_IN_STATS] = handle.id
        self.id = self.id or handle.id
        logger.info("workflow '%s' is at dyrygentd as '%s'", self.id, handle.id)

    def _take(self, nodes: Iterator[wire.NodeView]) -> None:
        """Learn from the daemon's nodes what runs and what has finished."""
        known = {*self.running, *self.finished}
        task_ids = {name: task_id for task_id, name in node_names(self._plain_nodes()).items()}
        running: dict[str, int] = {}
        finished: dict[str, bool] = {}
        for node in nodes:
            task_id = task_ids.get(node.name)
            if task_id is None:
                continue
            if node.state in _FINISHED:
                finished[task_id] = _FINISHED[node.state]
            elif node.state in _RUNNING:
                running[task_id] = 1
        self.running, self.finished = running, finished
        if not known.issuperset((*running, *finished)):
            self.stats["last_apply_async_tick"] = int(time.time())
            self._active_tick = True

    def _plain_nodes(self) -> dict[str, Any]:
        return {task_id: {"signature": node.signature} for task_id, node in self.nodes.items()}

    def _is_worth_waiting(self, error: DyrygentError) -> bool:
        """Tell whether the next tick may fare better. A workflow in mid-flight is not given up because the daemon refuses it."""
        is_in_mid_flight = self.dyrygentd_id is None and bool(self.running or self.finished)
        return patience.is_passing(error) or (is_in_mid_flight and not isinstance(error, WorkflowException))

    def _is_overdue(self, view: wire.WorkflowView) -> bool:
        """Tell whether the workflow was ended by its deadline."""
        limit_at = self.processing_limit_ts
        return view.state != "succeeded" and limit_at is not None and (view.finished_at or 0.0) >= limit_at


def _signature(canvas: Any) -> Any:
    """Return a signature for a dict that was one before it was sent."""
    return maybe_signature(canvas) if isinstance(canvas, dict) and not isinstance(canvas, Signature) else canvas


def _listed(dependencies: Dependencies) -> Nodes:
    return list(dependencies or ())


def _start_at(workflow_options: Mapping[str, Any]) -> float | None:
    """Return the Unix time that the processor task's countdown or eta meant. Without a time zone it is in UTC, as in Celery."""
    countdown, eta = workflow_options.get("countdown"), workflow_options.get("eta")
    if countdown:
        return time.time() + float(countdown)
    if eta is None:
        return None
    moment = eta if isinstance(eta, datetime) else datetime.fromisoformat(eta)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _gone(member: str, instead: str) -> WorkflowException:
    return WorkflowException(f"Workflow.{member}() was part of the original's tick, which is gone", next_step=instead)
