"""Every error class of the package can be raised, says what happened and can be sent as a problem document."""

import inspect
import json
import pickle
import re
import traceback
from importlib import import_module
from pathlib import Path

import pytest

from dyrygentd import errors, wire
from dyrygentd.daemon.servers import Files
from dyrygentd.errors import DyrygentError

#: Facts for the constructors, by parameter name.
FACTS: dict[str, object] = {
    "message": "cannot reach '/run/x.sock': is dyrygentd.service running?",
    "detail": "something happened",
    "reason": "it is odd",
    "nodes": ["a", "b"],
    "failed_nodes": ["a"],
    "matches": ["a1", "a2"],
    "timeout_s": 1.5,
    "status": 418,
    "document": {"detail": "something happened"},
    "body_bytes_max": 7,
    "nodes_max": 7,
    "most": 7,
    "arrived": 7,
    "silence_s": 1.5,
    "allowed": ["GET"],
    "read_only": True,
    "directory": Path("/run/x"),
    "files": Files(),
    "found": [],
    "returncode": 3,
    "failed_tasks": {"a": "it broke"},
}

_PACKAGE = Path(errors.__file__).parent


#: To parse a file takes a hundred times as long as to look for these lines, and whoever collects tests does it.
_CLASS = re.compile(r"^ *class (\w+)(?:\[[^]]*\])?(?:\(([^)]*)\))?:", re.MULTILINE)


def _written() -> list[tuple[str, str, set[str]]]:
    """Return all classes of the package: module, name, names of the bases."""
    return [
        (
            ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"),
            name,
            {base.strip().rpartition(".")[2] for base in bases.split(",")},
        )
        for path in sorted(_PACKAGE.rglob("*.py"))
        for name, bases in _CLASS.findall(path.read_text())
    ]


def _error_classes() -> list[type[DyrygentError]]:
    """Return every class of the package below its root of errors, wherever it is written; no other modules are loaded."""
    written, names = _written(), {DyrygentError.__name__}
    while more := {name for _, name, bases in written if names & bases} - names:
        names |= more
    return [getattr(import_module(module), name) for module, name, _ in written if name in names]


CLASSES = _error_classes()


def test_room_with_errors_of_its_own_is_named() -> None:
    """Whoever looks for an error class learns in one place where all of them are."""
    # One with an underscore does not leave its file.
    public = [found for found in CLASSES if not found.__name__.startswith("_")]
    rooms = {found.__module__.split(".")[1] for found in public} - {"errors"}
    assert rooms == {"http", "wire", "daemon", "demo", "compat", "loopback", "ports", "scheduler", "store", "worker"}
    assert {room for room in rooms if f"`{room}`" not in (errors.__doc__ or "")} == set()


def make(error_class: type[DyrygentError]) -> DyrygentError:
    """Construct an error with facts of the right kind."""
    if error_class.__init__ is Exception.__init__:
        return error_class("something happened to 'it'")
    parameters = [parameter for name, parameter in inspect.signature(error_class.__init__).parameters.items() if name != "self"]
    facts = {parameter.name: FACTS.get(parameter.name, f"some-{parameter.name}") for parameter in parameters}
    if error_class is errors.TooManyNodes:
        facts["nodes"] = 9
    return error_class(**facts)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda found: found.__name__)
def test_error_can_be_sent_to_another_process(error_class: type[DyrygentError]) -> None:
    """Pools of processes, Celery's among them, pickle what was raised, and lose what they cannot read back."""
    error = make(error_class)
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is error_class
    assert (str(same), vars(same), same.next_step) == (str(error), vars(error), error.next_step)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda found: found.__name__)
def test_class_keeps_the_rules(error_class: type[DyrygentError]) -> None:
    """A message is lower case without a full stop, and the problem document has a status, a code and JSON-able facts."""
    error = make(error_class)
    message = error.message
    assert message
    assert str(error) == (f"{message} (next: {error.next_step})" if error.next_step else message)
    assert message[0] == message[0].lower()
    assert not message.endswith(".")
    # What is accepted and not done yet is no failure; what a client raises has the status of the answer.
    assert 400 <= error.status < 600 or issubclass(error_class, errors.NotOnDiskYet)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)
    assert not error.next_step.endswith(".")
    problem = json.loads(wire.encode(wire.problem_of(error)))
    assert (problem["detail"], problem["status"], problem["code"]) == (message, error.status, error.code)
    assert not {"status", "code", "next_step"} & problem["facts"].keys()
    assert (error_class.__doc__ or "").strip()


def test_no_two_meanings_share_a_code() -> None:
    """Programs tell errors apart by their code, so only a class of its own may have one of its own."""
    own = [found.code for found in CLASSES if "code" in vars(found)]
    assert sorted(own) == sorted(set(own))


@pytest.mark.parametrize(
    ("error", "next_step"),
    [
        (errors.BadRequest("no", path="$"), ""),
        (errors.BadRequest("no", next_step="say yes"), "say yes"),
        (errors.BadNode("a", "no"), ""),
        (errors.BadNode("a", "no", next_step="say yes"), "say yes"),
        (errors.DaemonUnreachable("no"), ""),
        (errors.DaemonUnreachable("no", next_step="say yes"), "say yes"),
        (errors.ConfigurationError("no"), ""),
        (errors.ConfigurationError("no", next_step="say yes"), "say yes"),
        (errors.NotAccepting("no"), "try again later"),
        (errors.NodeNotFound("w", "a"), "`dyrygentctl show w` lists its nodes"),
    ],
)
def test_next_step_is_given_where_there_is_one(error: DyrygentError, next_step: str) -> None:
    """A person is told what to do, and nothing is made up where nothing can be done."""
    assert error.next_step == next_step


def test_a_traceback_has_the_way_out() -> None:
    """Who logs an error, or lets it end the program, reads what to do; who shows both apart takes the message."""
    error = errors.WorkflowNotFound("x")
    words = "no workflow has the id, unique prefix or name 'x'"
    assert error.message == words
    step = "(next: `dyrygentctl list` shows those that are known, --tree those below them, with ids; one with a key is `key:KEY`)"
    assert traceback.format_exception_only(error) == [f"dyrygentd.errors.WorkflowNotFound: {words} {step}\n"]
    assert f"failed: {error}".endswith(step)


def test_long_lists_are_cut() -> None:
    """An error about thousands of things stays readable, in words and in facts."""
    cycle = errors.CycleError([f"n{i}" for i in range(1000)])
    assert cycle.message == "the dependencies form a cycle: n0 -> n1 -> n2 -> n3 -> n4 -> … -> n996 -> n997 -> n998 -> n999 -> n0"
    assert len(cycle.nodes) == 100
    many = errors.AmbiguousReference("a", [f"a{i}" for i in range(50)])
    assert "'a' fits 50 workflows or more, such as a0, a1, a2" in str(many)
    assert len(many.matches) == 20


def test_message_without_failed_nodes() -> None:
    """A cancelled workflow may have no node to blame."""
    assert errors.WorkflowNotSucceeded("w", "name", "cancelled", []).message == "workflow 'name' (w) ended as cancelled"


def test_ambiguous_names_are_not_to_be_made_longer() -> None:
    """More characters help with the beginning of an id only; a name stays ambiguous."""
    assert errors.AmbiguousReference("a", ["a1", "a2"]).next_step == "give more characters of the id"
    assert errors.AmbiguousReference("big", ["a1", "a2"]).next_step == "give one of these ids, or the beginning of one"
