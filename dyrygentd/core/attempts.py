"""How often each node of a workflow was dispatched, under which task ids, and what is known of each attempt.

The task id of the first attempt is fixed at submission; later ones are derived from it and the attempt's number, so they need no
storage and a crash cannot change them.

Most nodes are tried once, and nothing is kept of them beside a few numbers. From the second attempt on the last few that were
before it are kept, each with its times and its end.
"""

from array import array
from collections.abc import Iterable
from typing import Final

from dyrygentd.core.additions import Additions
from dyrygentd.core.destination import ROUTES_MAX
from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import ALL_MADE, task_id_of_attempt, task_id_of_old
from dyrygentd.core.records import Attempt, NodeRecord
from dyrygentd.core.tried_again import TriedAgain

#: Earlier attempts that are kept of a node: what is looked at when something was tried again and again.
EARLIER_MAX: Final = 10
#: Of a poll, which asks for days: each of its rows is written with all of them.
QUESTIONS_MAX: Final = 3
#: Of all nodes of a workflow, about 20 MB; beyond it a node that has none gets none.
EARLIER_OF_ALL_MAX: Final = 100_000
#: Characters of an error.
_ERROR_MAX: Final = 200
#: Characters of a worker's name and its process: anybody may have stored them. Of more it is not known who it is.
_WORKER_MAX: Final = 300
#: How a question of a poll ends that is asked again.
NOT_YET: Final = "not yet"


class Attempts:
    """Attempts of nodes. Guards: their numbers only grow, and what is known of an attempt goes with it.

    Args:
        earlier_max: Attempts before the present ones that are kept of all nodes.

    Attributes:
        ids: How they are named, see `dyrygentd.core.ids`.
        dispatched_at: When the present one was sent, or the last one of a finished node; 0 if there is none.
        earlier: ``{node: attempts before the present or last one}``, the last few of them, oldest first.
        told: ``{node: (time, worker)}`` when the last attempt of a finished node began, and where, as far as workers told; of one
            that failed or was tried more than once.
        workers: ``{node: "worker/process"}`` that has the present attempt, as far as workers tell; the process may be empty.
            Taken apart when somebody asks, since of most nobody does. Not stored.
        begun_at: ``{node: time}`` when a worker was first heard to have begun the present one, as far as workers tell; of an
            earlier attempt if it is before ``dispatched_at``. Not stored.
        in_line: ``{node: number}`` of nodes in flight, see `dyrygentd.core.lines`. Not stored.
        failures: ``{node: n}`` failed ones since it was last tried from the beginning.
        polling_since: ``{node: time}`` of the first attempt of a poll.
        late: ``{node: state}`` stored by a worker after the node was finished without it.
        redelivered: ``{node: times}`` that the broker gave the present attempt's message out once more, as far as it was seen.
        reported: Last state that a worker reported for a node in flight, such as ``STARTED`` or ``RETRY``.
        next_tries: ``{node: (time, worker)}`` of nodes in flight whose task tries again by itself, as far as workers tell.
        routes: ``{task: destination}`` of the messages of each task, as the first of them was sent.
        sent_to: ``{node: destination}`` of the nodes whose last message went elsewhere.
        tried_again: What has failed and is tried again, by cause.
        additions: What tasks have added, of nodes that have not succeeded with it yet; the workflow's, which sets it.
        generations: ``{node: n}`` how often a node that is done by a workflow of its own was set back to begin with another one.
    """

    __slots__ = (
        "_earlier_count",
        "_earlier_max",
        "_graph",
        "_used",
        "additions",
        "begun_at",
        "dispatched_at",
        "earlier",
        "failures",
        "generations",
        "ids",
        "in_line",
        "late",
        "next_tries",
        "polling_since",
        "redelivered",
        "reported",
        "routes",
        "sent_to",
        "told",
        "tried_again",
        "workers",
    )

    def __init__(self, graph: Graph, *, earlier_max: int = EARLIER_OF_ALL_MAX) -> None:
        self._graph = graph
        # Of those that have ended, and are counted although another one may be in flight.
        self._used: dict[int, int] = {}
        self.ids = ALL_MADE
        self.dispatched_at = array("d", bytes(8 * len(graph)))
        self.earlier: dict[int, tuple[Attempt, ...]] = {}
        self._earlier_count, self._earlier_max = 0, earlier_max
        self.told: dict[int, tuple[float, str]] = {}
        self.workers: dict[int, str] = {}
        self.begun_at: dict[int, float] = {}
        self.in_line: dict[int, int] = {}
        self.failures: dict[int, int] = {}
        self.polling_since: dict[int, float] = {}
        self.late: dict[int, str] = {}
        self.redelivered: dict[int, int] = {}
        self.reported: dict[int, str] = {}
        self.next_tries: dict[int, tuple[float, str]] = {}
        self.routes: dict[str, str] = {}
        self.sent_to: dict[int, str] = {}
        self.tried_again = TriedAgain()
        self.generations: dict[int, int] = {}
        self.additions: Additions

    def __repr__(self) -> str:
        counts = f"attempts={len(self._used)} earlier={self._earlier_count} failed={len(self.failures)} late={len(self.late)}"
        return f"<Attempts {counts}>"

    # --- numbers and ids --------------------------------------------------------------------------------------------

    def of(self, node: int) -> int:
        """Return how often the node was dispatched, 0 if never."""
        used = self._used.get(node, 0) if self._used else 0
        return used + 1 if self.dispatched_at[node] else used

    def task_id_of(self, node: int, *, back: int = 0) -> str:
        """Return the task id of the node's present attempt, or its last one; empty for what has no task.

        Args:
            back: How many attempts before that one.
        """
        first = self._graph.task_ids[node]
        if not self._used or not first:
            return first
        name = task_id_of_attempt if self.ids else task_id_of_old
        return name(first, self.of(node) - back)

    def held_ids(self, node: int) -> list[str]:
        """Return the ids of a node, the next one of a workflow that an earlier version took in included: that can be guessed."""
        first, attempt = self._graph.task_ids[node], self.of(node)
        if not first or self.ids:
            return [first]
        return list(dict.fromkeys((first, task_id_of_old(first, attempt), task_id_of_old(first, attempt + 1))))

    def pass_over_ids(self, nodes: Iterable[int]) -> list[int]:
        """Have nodes that were never sent begin with their second attempt: somebody else has the id of the first; return them."""
        passed = [node for node in nodes if not self.of(node)]
        self._used.update(dict.fromkeys(passed, 1))
        return passed

    def begin_generation(self, node: int) -> None:
        """Have a node begin with another workflow of its own when its turn comes."""
        self.generations[node] = self.generations.get(node, 0) + 1

    def begin_anew(self, node: int) -> None:
        """Have a node begin with another workflow of its own; a task that has added one runs again."""
        if self.additions.is_child(node):
            self.begin_generation(node)
        self.additions.drop(node)

    # --- the life of one --------------------------------------------------------------------------------------------

    def end(self, node: int, now: float, *, ended: str, due_at: float = 0.0, error: str = "") -> None:
        """Have the present attempt be one of those that were; ``ended``, ``due_at`` and ``error`` are as in `Attempt`."""
        self._note(node, ended, now, due_at=due_at, error=error)
        self._used[node] = self.of(node)
        self.dispatched_at[node] = 0.0
        if self.tried_again.cause_of:
            self.tried_again.attempt_ended(node)
        self.reported.pop(node, None)
        self.begun_at.pop(node, None)
        self.workers.pop(node, None)
        self.next_tries.pop(node, None)
        self.late.pop(node, None)
        self.redelivered.pop(node, None)

    def finish(self, node: int, *, is_bad: bool) -> None:
        """Forget what was reported of the last attempt, but for when and where it began if somebody may ask for that."""
        if is_bad or (self.earlier and node in self.earlier):
            started_at, worker = self._begun(node)
            if started_at or worker:
                self.told[node] = started_at, worker
        self.reported.pop(node, None)
        self.begun_at.pop(node, None)
        self.workers.pop(node, None)
        if self.next_tries:
            self.next_tries.pop(node, None)

    def take_back(self, node: int, used: int, dispatched_at: float) -> None:
        """Have the last attempt be the present one again, after so many others."""
        self._used[node], self.dispatched_at[node] = used, dispatched_at
        kept = self.earlier.get(node)
        if kept and kept[-1].number > used:
            self._keep(node, kept[:-1])

    def start_over(
        self, node: int, now: float, *, is_first_id_used: bool, ended: str = "", ended_at: float = 0.0, error: str = ""
    ) -> None:
        """Have the node tried from the beginning; what is in the backend under its first id may take that away.

        Args:
            ended, ended_at: The state of the node, and when it finished; 0 if it had not.
        """
        if self.dispatched_at[node]:
            self._note(node, ended, ended_at, due_at=now, error=error, is_over=True)
        elif kept := self.earlier.get(node):
            # Its next attempt is due now, whatever it waited for.
            last = kept[-1]
            due_at = min(last.due_at, now) if last.due_at and not ended_at else now
            self._keep(node, (*kept[:-1], last._replace(due_at=due_at, is_over=last.is_over or bool(ended_at))))
        self.told.pop(node, None)
        used = self.of(node) or int(is_first_id_used)
        if used:
            self._used[node] = used
        self.dispatched_at[node] = 0.0
        self.forget_failures(node)
        self.polling_since.pop(node, None)
        self.late.pop(node, None)

    def forget_failures(self, node: int) -> None:
        """Have the next failure be the first one in a row."""
        self.failures.pop(node, None)
        self.tried_again.forget(node)

    def began(self, node: int) -> tuple[float, str]:
        """Return when the present or last attempt began, and at which worker, as far as it is known; 0 and empty if not."""
        return self.told.get(node) or self._begun(node)

    def _begun(self, node: int) -> tuple[float, str]:
        begun_at = self.begun_at.get(node, 0.0)
        worker = self.workers.get(node, "").rpartition("/")[0]
        return begun_at if begun_at >= self.dispatched_at[node] else 0.0, worker

    def _note(self, node: int, ended: str, ended_at: float, *, due_at: float, error: str, is_over: bool = False) -> None:
        """Keep what is known of the present attempt; of many the oldest goes."""
        kept = self.earlier.get(node, ())
        most = QUESTIONS_MAX if ended == NOT_YET else EARLIER_MAX
        if self._earlier_count >= self._earlier_max:
            if not kept:
                return
            most = min(most, len(kept))
        error = error[:_ERROR_MAX]
        if kept and kept[-1].error == error:
            # Most attempts fail alike: one text serves them all.
            error = kept[-1].error
        sent_at, (started_at, worker) = self.dispatched_at[node], self.began(node)
        last = Attempt(self.of(node), sent_at, ended_at, ended, due_at, started_at, worker, error, is_over)
        self._keep(node, (*kept, last)[-most:])

    def _keep(self, node: int, attempts: tuple[Attempt, ...]) -> None:
        self._earlier_count += len(attempts) - len(self.earlier.get(node, ()))
        if attempts:
            self.earlier[node] = attempts
        else:
            self.earlier.pop(node, None)

    def note_reported(self, node: int, state: str, next_try_at: float = 0.0, worker: str = "", start: str = "") -> None:
        """Note a state on the way; the same once more does not take away what is known of the next try.

        Args:
            start: The worker and the process that began it, as in `dyrygentd.core.events.TaskReported`.
        """
        if next_try_at:
            self.next_tries[node] = (next_try_at, worker)
        elif self.next_tries and self.reported.get(node) != state:
            self.next_tries.pop(node, None)
        self.reported[node] = state
        if worker:
            self.note_worker(node, worker)
        elif start:
            self.workers[node] = start[:_WORKER_MAX]

    def note_worker(self, node: int, worker: str) -> None:
        """Note who has the present attempt, or had it, if that is told."""
        if worker:
            self.workers[node] = f"{worker}/"[:_WORKER_MAX]

    def forget_reports(self) -> None:
        """Forget what workers reported of all nodes: nothing is in flight any more."""
        self.reported.clear()
        self.begun_at.clear()
        self.workers.clear()
        self.next_tries.clear()

    def read_back(self, row: NodeRecord) -> None:
        """Take what is stored of a node's attempts."""
        node = row.node
        self.dispatched_at[node] = row.dispatched_at
        used = row.attempt - (1 if row.dispatched_at else 0)
        if used > 0:
            self._used[node] = used
        if row.failures:
            self.failures[node] = row.failures
        if row.polling_since:
            self.polling_since[node] = row.polling_since
        if row.late:
            self.late[node] = row.late
        if row.sent_to:
            self.sent_to[node] = row.sent_to
        if row.started_at or row.worker:
            self.told[node] = row.started_at, row.worker
        if row.earlier:
            self._keep(node, row.earlier)

    # --- where they are sent ----------------------------------------------------------------------------------------

    def note_destination(self, node: int, destination: str) -> bool:
        """Remember where the present attempt is sent; tell whether that is now kept once, as what is usual for its task."""
        signature = self._graph.signatures[node]
        assert signature is not None
        usual, is_new = self.routes.get(signature.task, ""), False
        if not usual and destination and len(self.routes) < ROUTES_MAX:
            self.routes[signature.task] = usual = destination
            is_new = True
        if usual != destination:
            self.sent_to[node] = destination
        elif self.sent_to:
            self.sent_to.pop(node, None)
        return is_new

    def destination_of(self, node: int) -> str:
        """Return where the last attempt was sent; empty if that is not known."""
        found = self.sent_to.get(node)
        signature = self._graph.signatures[node]
        if found is not None or signature is None:
            return found or ""
        return self.routes.get(signature.task, "")
