"""What a program may catch, by whose fault it is. Imports nothing.

A room keeps an error class of its own where it alone can raise it and it means nothing without that room: `http` (what is wrong
with a request before a route has it, and who may not make it), `loopback` (the same of a browser), `wire` (bounds of a body),
`daemon` and `demo` (servers they start), `ports` (letters, and who leads), `scheduler` (what is not confirmed; values that are
elsewhere), `store` (a database that went back), `compat` (celery-dyrygent's), `worker` (additions). Rules: ``test_errors.py``.

Long because all that the package promises to raise is to be seen at once.

Each error has a ``status`` (the HTTP status that reports it), a ``code`` (a stable word for programs) and a
``next_step`` (what a person can do about it, may be empty). Facts are attributes; the ``message`` names the object. As text an
error is both, so that who prints or logs it has the way out, too; what shows them apart takes ``message``.
"""

from collections.abc import Iterable, Sequence


class DyrygentError(Exception):
    """Root of all errors of this package."""

    status = 500
    code = "internal-error"
    next_step = ""

    def __str__(self) -> str:
        return f"{self.message} (next: {self.next_step})" if self.next_step else self.message

    @property
    def message(self) -> str:
        """Return what happened to which object, without the next step."""
        return str(self.args[0]) if self.args else ""

    @property
    def facts(self) -> dict[str, object]:
        """Return the attributes that describe the error, for a problem document."""
        return {name: value for name, value in vars(self).items() if name not in ("next_step", "status", "code")}

    def __reduce__(self) -> tuple[object, ...]:
        # By default an exception is made anew of its message alone, which most of these do not take: other processes need them.
        return _made_again, (type(self), self.args), dict(vars(self))


# --- the caller's request -------------------------------------------------------------------------------------------


class RequestError(DyrygentError):
    """The request itself cannot be served as it was made."""

    status = 400
    code = "bad-request"


class BadRequest(RequestError):
    """The request is malformed; ``path`` tells where (JSON path, query parameter or header)."""

    def __init__(self, message: str, *, path: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.path = path
        if next_step:
            self.next_step = next_step


class BodyTooLarge(RequestError):
    """The body is longer than the daemon accepts."""

    status = 413
    code = "body-too-large"
    next_step = "split the workflow, or raise `body_bytes_max` in the daemon's configuration"

    def __init__(self, body_bytes_max: int) -> None:
        super().__init__(f"the request body is longer than {body_bytes_max} bytes")
        self.body_bytes_max = body_bytes_max


class WorkflowNotFound(RequestError):
    """No workflow answers to this reference."""

    status = 404
    code = "workflow-not-found"
    next_step = "`dyrygentctl list` shows those that are known, --tree those below them, with ids; one with a key is `key:KEY`"

    def __init__(self, reference: str) -> None:
        super().__init__(f"no workflow has the id, unique prefix or name '{reference}'")
        self.reference = reference


class NodeNotFound(RequestError):
    """The workflow has no such node."""

    status = 404
    code = "node-not-found"

    def __init__(self, workflow_id: str, node: str) -> None:
        super().__init__(f"workflow '{workflow_id}' has no node '{node}'")
        self.workflow_id = workflow_id
        self.node = node
        self.next_step = f"`dyrygentctl show {workflow_id}` lists its nodes"


class BoxNotFound(RequestError):
    """The folded workflow has no such box, or it is a single node."""

    status = 404
    code = "box-not-found"

    def __init__(self, workflow_id: str, path: str) -> None:
        path = path[:300]
        super().__init__(f"workflow '{workflow_id}' has no box '{path}' that could be opened")
        self.workflow_id = workflow_id
        self.path = path
        self.next_step = "open the whole workflow, without a path, and take the path of one of its boxes"


class CauseNotFound(RequestError):
    """No failed node of the workflow has this cause."""

    status = 404
    code = "cause-not-found"

    def __init__(self, workflow_id: str, cause: str, known: Sequence[str]) -> None:
        super().__init__(f"no failure of workflow '{workflow_id}' has the cause '{cause}'")
        self.workflow_id = workflow_id
        self.cause = cause
        self.next_step = f"its causes are {', '.join(known[:10])}" if known else "none of its nodes has failed"


class VerbRefused(RequestError):
    """The verb makes no sense in this state; the next step names the verbs that do, for all of it and for single nodes."""

    status = 409
    code = "verb-refused"

    def __init__(
        self, verb: str, what: str, state: str, *, allowed: Sequence[str], of_nodes: Sequence[str] = (), reason: str = ""
    ) -> None:
        super().__init__(f"'{verb}' is not possible: {what} is {state}{f'; {reason}' if reason else ''}")
        self.verb, self.what, self.state = verb, what, state
        self.allowed = list(allowed)
        possible = [", ".join(allowed)] * bool(allowed) + [f"of single nodes {', '.join(of_nodes)}"] * bool(of_nodes)
        self.next_step = f"possible are {'; '.join(possible)}" if possible else ""


class NotImportable(RequestError):
    """An exported workflow cannot be taken in as it is."""

    status = 409
    code = "not-importable"

    def __init__(self, workflow_id: str, reason: str, *, next_step: str) -> None:
        super().__init__(f"workflow '{workflow_id}' cannot be imported: {reason}")
        self.workflow_id = workflow_id
        self.next_step = next_step


class ValueGone(RequestError):
    """A node cannot run again because a value that it takes was let go."""

    status = 409
    code = "value-gone"

    def __init__(self, node: str, dependency: str, origins: Sequence[str]) -> None:
        super().__init__(f"node '{node}' needs the value of '{dependency}', which is not kept any more")
        self.node = node
        self.dependency = dependency
        #: From all of these together it can run again; ``origin_count`` says whether there are more.
        self.origins, self.origin_count = list(origins[:20]), len(origins)
        names = ", ".join(f"'{name}'" for name in self.origins)
        more = self.origin_count - len(self.origins)
        self.next_step = f"rerun from {names}" + (f" and {more} more, or submit it anew" if more else "")


class UnknownPool(RequestError):
    """A node names a pool that nobody has given a size."""

    status = 422
    code = "unknown-pool"

    def __init__(self, node: str, pool: str, known: Sequence[str]) -> None:
        super().__init__(f"node '{node}' needs pool '{pool}', which has no size")
        self.node = node
        self.pool = pool
        self.next_step = (
            f"known are {', '.join(known[:20])}; others are added to `pools` in the daemon's configuration"
            if known
            else 'add it to `pools` in the daemon\'s configuration, such as `pools = {"drain@*" = 2}`'
        )


class AmbiguousReference(RequestError):
    """A prefix or name fits several workflows."""

    status = 409
    code = "ambiguous-reference"

    def __init__(self, reference: str, matches: Sequence[str]) -> None:
        super().__init__(f"'{reference}' fits {len(matches)} workflows or more, such as {', '.join(matches[:3])}")
        self.reference = reference
        self.matches = list(matches[:20])
        # A name is no beginning of the ids that it fits, and more characters of it would fit nothing.
        is_prefix = all(match.startswith(reference) for match in matches)
        self.next_step = "give more characters of the id" if is_prefix else "give one of these ids, or the beginning of one"


class TaskIdTaken(RequestError):
    """A definition brings a task id that is, or was, another task's."""

    status = 409
    code = "task-id-taken"
    next_step = "leave `task_id` out, and one is made; of a canvas, submit one that was not frozen"

    def __init__(self, node: str, task_id: str, reason: str, *, next_step: str = "") -> None:
        super().__init__(f"node '{node}': task id '{task_id}' {reason}")
        self.node = node
        self.task_id = task_id
        if next_step:
            self.next_step = next_step


class KeyTaken(RequestError):
    """The key was given to another workflow before."""

    status = 409
    code = "key-taken"

    def __init__(self, key: str, workflow_id: str, what_differs: str) -> None:
        super().__init__(f"key '{key}' belongs to workflow '{workflow_id}', whose definition is another one: {what_differs}")
        self.key, self.workflow_id, self.what_differs = key, workflow_id, what_differs
        self.next_step = f"give a new key to new work, or see `dyrygentctl show {workflow_id}` for what has this one"


class NotAccepting(RequestError):
    """The daemon takes no submissions now."""

    status = 503
    code = "not-accepting"

    def __init__(self, reason: str, *, next_step: str = "try again later") -> None:
        super().__init__(f"no submissions are accepted now: {reason}")
        self.reason = reason
        self.next_step = next_step


# --- the workflow's content -----------------------------------------------------------------------------------------


class DefinitionError(DyrygentError):
    """The workflow cannot be run as it is defined."""

    status = 422
    code = "bad-definition"


class EmptyWorkflow(DefinitionError):
    """There is nothing to run."""

    code = "empty-workflow"

    def __init__(self) -> None:
        super().__init__("the workflow has no nodes")


class TooManyNodes(DefinitionError):
    """The graph is larger than the limit."""

    code = "too-many-nodes"
    next_step = "split the workflow, or raise `nodes_max` in the daemon's configuration"

    def __init__(self, nodes: int, nodes_max: int, *, is_counted: bool = True) -> None:
        number = nodes if is_counted else f"more than {nodes_max}"
        super().__init__(f"the workflow has {number} nodes, the limit is {nodes_max}")
        self.nodes = nodes
        self.nodes_max = nodes_max


class DuplicateNode(DefinitionError):
    """Two nodes have one name."""

    code = "duplicate-node"

    def __init__(self, node: str) -> None:
        super().__init__(f"two nodes are named '{node}'")
        self.node = node


class DuplicateTaskId(DefinitionError):
    """Two nodes have one task id."""

    code = "duplicate-task-id"
    next_step = "leave `task_id` out, and one is made for each node"

    def __init__(self, task_id: str, nodes: Sequence[str]) -> None:
        super().__init__(f"nodes {_quoted(nodes)} have the same task id '{task_id}'")
        self.task_id = task_id
        self.nodes = list(nodes)


class UnknownDependency(DefinitionError):
    """A node waits for one that does not exist."""

    code = "unknown-dependency"

    def __init__(self, node: str, dependency: str) -> None:
        super().__init__(f"node '{node}' depends on '{dependency}', which is not in the graph")
        self.node = node
        self.dependency = dependency


class CycleError(DefinitionError):
    """The dependencies form a cycle; ``nodes`` goes once round it."""

    code = "cycle"

    def __init__(self, nodes: Sequence[str]) -> None:
        shown = list(nodes) if len(nodes) <= 10 else [*nodes[:5], "…", *nodes[-4:]]
        super().__init__(f"the dependencies form a cycle: {' -> '.join([*shown, nodes[0]])}")
        self.nodes = list(nodes[:100])


class BadNode(DefinitionError):
    """A node's own fields are wrong."""

    code = "bad-node"

    def __init__(self, node: str, reason: str, *, next_step: str = "") -> None:
        super().__init__(f"node '{node}': {reason}")
        self.node = node
        self.reason = reason
        if next_step:
            self.next_step = next_step


class NotACanvas(DefinitionError):
    """The object handed over is not made of Celery signatures."""

    code = "not-a-canvas"
    next_step = "pass a signature, chain, group or chord, or a dyrygentd Workflow"


# --- the world outside ----------------------------------------------------------------------------------------------


class OutsideError(DyrygentError):
    """Something outside this process does not work as it must."""

    status = 503
    code = "outside"


class BrokerUnavailable(OutsideError):
    """The broker cannot be reached, or refuses to take messages."""

    code = "broker-unavailable"


class BrokerEmptied(OutsideError):
    """The broker has lost its memory, or the last of it: queues, reservations and the markers against double publishing."""

    code = "broker-emptied"


class Fenced(OutsideError):
    """Another process has taken the database over, or a copy of it; this one publishes and saves nothing more."""

    code = "fenced"
    next_step = "stop the one that is not to go on; should it be the other one, `dyrygentd claim` and start this one again"

    def __init__(self, term: int, later: int, by: str) -> None:
        own = f"; this one has term {term}" if term else ""
        super().__init__(f"another process works with this database, or a copy of it: {by} holds term {later}{own}")
        self.term, self.later, self.by = term, later, by


class BackendUnavailable(OutsideError):
    """The result backend cannot be reached, cannot be read, or refuses to take a result."""

    code = "backend-unavailable"


class BackendUnsupported(OutsideError):
    """The result backend cannot serve a process that awaits results of others."""

    code = "backend-unsupported"


class StoreUnavailable(OutsideError):
    """The database cannot be written now; nothing is dispatched until it can."""

    code = "store-unavailable"


class ListingTooLong(OutsideError):
    """A listing has to look at more workflows than there is time for."""

    code = "listing-too-long"
    next_step = "ask for less: a newer part (`cursor`), fewer labels; a shorter history (`history_max`) is looked through faster"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the workflows could not be looked through within {timeout_s:g} s")
        self.timeout_s = timeout_s


class NotStored(OutsideError):
    """A submission did not reach the disk in time and was undone: it never runs."""

    code = "not-stored"
    next_step = "submit again when the disk works"

    def __init__(self, reason: str, timeout_s: float) -> None:
        super().__init__(f"the workflow was not on disk within {timeout_s:g} s, it was withdrawn and will not run: {reason}")


class NotOnDiskYet(OutsideError):
    """What was asked for is not on disk yet, and will be done as soon as it can be written. No failure: a *not yet*.

    It is reported as 202, which no proxy and no client repeats by itself: what is done twice may be more than what was asked for.

    Attributes:
        what: What was asked for.
        workflow_id: Of which workflow.
    """

    status = 202
    code = "not-on-disk-yet"

    def __init__(self, what: str, workflow_id: str, reason: str, *, next_step: str) -> None:
        super().__init__(f"{what} of workflow '{workflow_id}' is not on disk yet, and will be done when it is: {reason}")
        self.what = what
        self.workflow_id = workflow_id
        self.next_step = next_step


class StoreLocked(OutsideError):
    """Another process has the database open."""

    code = "store-locked"
    next_step = "stop the other daemon, or give this one a database of its own"


class StoreIncompatible(OutsideError):
    """The file is no database of this program, is damaged, or comes from a newer version."""

    code = "store-incompatible"


class DaemonUnreachable(OutsideError, ConnectionError):
    """The client cannot talk to the daemon. A `ConnectionError`, so that what repeats on those repeats on this one.

    Attributes:
        may_be_done: Whether the daemon may have done what was asked, and only its answer did not come.
    """

    code = "daemon-unreachable"

    def __init__(self, message: str, *, next_step: str = "", may_be_done: bool = False) -> None:
        super().__init__(message)
        self.may_be_done = may_be_done
        if next_step:
            self.next_step = next_step


class DaemonTimeout(DaemonUnreachable, TimeoutError):
    """The daemon has not answered in time. A `TimeoutError` as well."""

    code = "daemon-timeout"


class ConfigurationError(OutsideError):
    """The configuration names something that does not exist or does not fit."""

    code = "configuration"

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        if next_step:
            self.next_step = next_step


class NotThereYet(ConfigurationError):
    """What the configuration names cannot be had at this moment, and may be later: an address that is taken, a module.

    Attributes:
        setting: The key that names it, if that is known.
    """

    code = "not-there-yet"

    def __init__(self, message: str, *, next_step: str = "", setting: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.setting = setting


class RemoteError(DyrygentError):
    """The daemon answered with a problem document; ``status`` and ``code`` are the daemon's."""

    def __init__(self, detail: str, *, status: int, code: str, next_step: str, document: dict[str, object]) -> None:
        # Not `super`: a class below may also be what the daemon has raised.
        Exception.__init__(self, detail)
        self.status = status
        self.code = code
        self.next_step = next_step
        self.document = document


class RemoteUnavailable(RemoteError, ConnectionError):
    """The daemon answered that it cannot do it now (429, 503): nothing was done, and it can be asked again later."""


class RemoteNotOnDiskYet(RemoteError, NotOnDiskYet):
    """The daemon answered that something is not on disk yet and will be done; what it knows is in ``document``."""

    def __init__(self, detail: str, *, status: int, code: str, next_step: str, document: dict[str, object]) -> None:
        RemoteError.__init__(self, detail, status=status, code=code, next_step=next_step, document=document)
        facts = document.get("facts")
        known = facts if isinstance(facts, dict) else {}
        self.what, self.workflow_id = str(known.get("what", "")), str(known.get("workflow_id", ""))


class SubmissionRefused(DyrygentError):
    """The daemon refused what was submitted through the broker; ``code`` and ``status`` are the daemon's.

    All that it tells are its arguments, since Celery keeps nothing else of an exception.
    """

    def __init__(self, detail: str, code: str = "bad-request", next_step: str = "", status: int = 400) -> None:
        super().__init__(detail, code, next_step, status)
        self.code = code
        self.next_step = next_step
        self.status = status


class WaitTimeout(DyrygentError, TimeoutError):
    """The time given to wait for a workflow is over; the workflow goes on. A `TimeoutError`."""

    status = 504
    code = "wait-timeout"

    def __init__(self, workflow_id: str, timeout_s: float) -> None:
        super().__init__(f"workflow '{workflow_id}' has not finished within {timeout_s:g} s; it goes on")
        self.workflow_id = workflow_id
        self.timeout_s = timeout_s


class WorkflowNotSucceeded(DyrygentError):
    """A workflow ended as failed or cancelled, or has not ended yet; raised where its success was demanded."""

    code = "workflow-not-succeeded"

    def __init__(self, workflow_id: str, name: str, state: str, failed_nodes: Sequence[str]) -> None:
        failed = f", failed nodes: {_quoted(failed_nodes[:5])}" if failed_nodes else ""
        verb = "ended as" if state in ("failed", "cancelled") else "is"
        super().__init__(f"workflow '{name}' ({workflow_id}) {verb} {state}{failed}")
        self.workflow_id = workflow_id
        self.state = state
        self.failed_nodes = list(failed_nodes)
        self.next_step = f"`dyrygentctl show {workflow_id}` tells why"


# --- ourselves ------------------------------------------------------------------------------------------------------


class InvariantBroken(DyrygentError):
    """The core contradicts itself; the message carries the story of the node."""

    code = "invariant-broken"
    next_step = "this is a bug of dyrygentd: please report it with this message"


def _made_again(error_class: type[DyrygentError], args: tuple[object, ...]) -> DyrygentError:
    error = error_class.__new__(error_class, *args)
    error.args = args
    return error


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
