"""What is refused says where and why, and what would be right."""

from typing import Any

import pytest

from dyrygentd.errors import (
    BadNode,
    BadRequest,
    UnknownDependency,
)
from tests.wire.support import decode


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "$"),
        (b"[1]", "$"),
        (b"{", "$"),
        (b'{"nodes": [{"task": "\xff"}]}', "$"),
        (b'{"nodes": [{"task": "t", "args": ["\xff"]}]}', "$"),
        (b'{"nodes": [{"task": "t", "args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", "$"),
        (b"{}", "$"),
        (b'{"nodes": 1}', "$.nodes"),
        (b'{"nodes": [{"task": "t"}, {"task": 1}]}', "$.nodes[1].task"),
        (b'{"nodes": [{"task": ""}]}', "$.nodes[0].task"),
        (b'{"nodes": [{"task": "t", "after": ["a", 2]}]}', "$.nodes[0].after[1]"),
        (b'{"nodes": [{"task": "t", "arg": []}]}', "$.nodes[0]"),
        (b'{"nodes": [], "unknown": 1}', "$"),
        (b'{"nodes": [], "version": 2}', "$.version"),
        (b'{"nodes": [], "labels": {"a": 1}}', "$.labels[...]"),
        (b'{"nodes": [], "name": "' + b"x" * 201 + b'"}', "$.name"),
        (b'{"nodes": [{"task": "t", "options": {"countdown": 1e400}}]}', "$[...]"),
    ],
)
def test_refuses_another_shape_and_says_where(body: bytes, path: str) -> None:
    """The path leads to the mistake in a file of thousands of lines."""
    with pytest.raises(BadRequest) as caught:
        decode(body)
    assert caught.value.path == path
    assert "msgspec" not in str(caught.value)


@pytest.mark.parametrize(
    ("node", "message", "next_step"),
    [
        # Another shape.
        ({"tasks": "t"}, "node 'x': unknown field `tasks`, at $.nodes[1]", "did you mean 'task'?"),
        ({"zzzz": 1}, "unknown field `zzzz`", "known are name, task, join"),
        ({"task": 5}, "`task` must be text or null, and is a whole number, at $.nodes[1].task", "write text of 1 to 200"),
        ({"after": "a"}, "`after` must be an array, and is text", "write an array"),
        ({"after": ["a", 5]}, "`after[1]` must be text, and is a whole number", "write text"),
        ({"rule": "all"}, "`rule` cannot be 'all'", "use one of all_succeeded, all_finished, any_failed, any_succeeded"),
        ({"redeliveries_max": -1}, "`redeliveries_max` must be a whole number >= 0", "write a whole number from 0 to 1000"),
        ({"on_lost": "x"}, "`on_lost` cannot be 'x'", "use one of retry, fail, hold"),
        ({"hook": "x"}, "`hook` cannot be 'x'", "use one of success, failure, always"),
        ({"section_end": "x"}, "`section_end` cannot be 'x'", "use one of finally, success, failure, always"),
        ({"adopted": "x"}, "`adopted` cannot be 'x'", "use one of dispatched, failed, succeeded"),
        ({"rule": 5}, "`rule` must be text, and is a whole number", "use one of all_succeeded"),
        ({"immutable": "yes"}, "`immutable` must be true or false, and is text", "write true or false"),
        ({"timeout_s": -1}, "`timeout_s` must be a number >= 0", "write a number from 0 to"),
        ({"timeout_s": "5"}, "`timeout_s` must be a number, and is text", "write a number from 0 to"),
        ({"retry": 3}, "`retry` must be an object or null, and is a whole number", "write an object with attempts, backoff_s"),
        ({"retry": {"attempts": 0}}, "`retry.attempts` must be a whole number >= 1", "write a whole number from 1 to 1000"),
        ({"retry": {"attempts": 1.5}}, "`retry.attempts` must be a whole number, and is a number", "write a whole number"),
        ({"retry": {"attempt": 1}}, "unknown field `attempt` in `retry`", "did you mean 'attempts'?"),
        ({"retry": {"jitter": 2}}, "`retry.jitter` must be a number <= 1", "write a number from 0 to 1"),
        ({"poll": {}}, "the field `every_s` of `poll` is missing", "add `every_s`"),
        ({"poll": {"every_s": 0}}, "`poll.every_s` must be a number >= 0.1", "write a number from 0.1 to"),
        ({"section": "x" * 201}, "`section` must be text with a length <= 200", "write text of 0 to 200 characters"),
        ({"pool": "x" * 201}, "`pool` must be text with a length <= 200", "write text of 0 to 200 characters"),
        # Contradictions.
        ({"gate": True}, "node 'x': a gate has no task", "leave out either `gate` or `task`"),
        ({"task": None, "poll": {"every_s": 1}}, "a poll repeats a task, and `task` is missing", "name a task"),
        ({"task": None, "hook": "always"}, "a hook runs a task, and `task` is missing", "name a task"),
        ({"task": None, "gate": True, "args": [1]}, "a gate has a name, `after`, `rule`", "leave out `args`"),
        ({"task": None, "gate": True, "sleep_s": 1}, "it is `gate` and `sleep_s` in one", "make two nodes of it"),
        ({"task": None, "sleep_s": 1, "pool": "p"}, "a sleep has a name", "leave out `pool`"),
        ({"task": None, "join": True, "adopted": "dispatched"}, "what has no task cannot have been", "leave out `adopted`"),
        ({"hook": "always", "after": ["a"]}, "a hook waits for all ends", "leave out `after` and `rule`"),
        ({"hook": "always", "poll": {"every_s": 1}}, "a hook is neither a poll nor adopted", "leave out `poll` or `hook`"),
        ({"hook": "always", "adopted": "failed"}, "a hook is neither a poll nor adopted", "leave out `adopted` or `hook`"),
        ({"expands": True, "poll": {"every_s": 1}}, "run in the node's place once, so it is no poll", "leave out `poll` or"),
        ({"expands": True, "hook": "always"}, "so it is no hook", "leave out `hook` or `expands`"),
        ({"expands": True, "adopted": "failed"}, "so it is no adopted", "leave out `adopted` or `expands`"),
        ({"expands": 1}, "`expands` must be", ""),
        ({"section_end": "finally"}, "it ends a section and is in none", "name its `section`; at the end of the whole workflow"),
        ({"section_end": "finally", "section": "s"}, "section 's' has no other node whose end", "name the section whose nodes"),
        ({"task": None, "section_end": "finally"}, "what ends a section runs a task, and `task` is missing", "name a task"),
        ({"section_end": "always", "section": "s", "adopted": "failed"}, "what ends a section is not adopted", "leave out"),
        ({"section_end": "always", "section": "s", "after": ["a"]}, "a hook of a section (`section_end: always`)", "leave out"),
        ({"section_end": "always", "hook": "always"}, "it is a hook of the workflow and ends a section", "leave out either"),
        ({"task": None, "gate": True, "section_end": "finally"}, "a gate has a name, `after`, `rule`", "leave out `section_end`"),
        ({"rule": "any_failed"}, "rule 'any_failed' needs something to wait for", "name it in `after`"),
        ({"retry": {"backoff_s": 9, "backoff_max_s": 3}}, "`retry`: the longest pause, 3 s, is shorter than", "raise"),
        ({"args": {"a": 1}}, "`args` must be an array", "write `args: [1, 2]`"),
        # A field that takes two kinds of numbers, or a number or a text.
        (
            {"map": {"do": {"task": "t"}, "over": [1], "min_success": 1.5}, "task": None},
            "`map.min_success` must be a number <= 1",
            "write a whole number from 0 to 1000000 or a number from 0 to 1",
        ),
        ({"when": {"value": "a", "over": [1]}}, "`when.over` must be a number or text, and is an", "write a number or text"),
        # Options that nobody could publish with.
        ({"options": {"queue": 5}}, "`options.queue` must be text, and is 5", "give the queue's name"),
        ({"options": {"routing_key": ["x"]}}, "`options.routing_key` must be text", "give the key"),
        ({"options": {"exchange": {}}}, "`options.exchange` must be text", "give the exchange's name"),
        ({"options": {"shadow": 1}}, "`options.shadow` must be text", "it is the name"),
        ({"options": {"priority": "high"}}, "`options.priority` must be a whole number from 0 to 255, and is 'high'", "brokers"),
        ({"options": {"priority": 256}}, "`options.priority` must be a whole number from 0 to 255, and is 256", "brokers"),
        ({"options": {"priority": True}}, "`options.priority` must be a whole number", "brokers"),
        ({"options": {"time_limit": "1h"}}, "`options.time_limit` must be a number of seconds", "for a bound from dispatch"),
        ({"options": {"soft_time_limit": -1}}, "`options.soft_time_limit` must be a number of seconds", "for a bound"),
        ({"options": {"compression": "zip"}}, "`options.compression` must be one that kombu knows", "use one of brotli"),
        ({"options": {"compression": ["gzip"]}}, "`options.compression` must be one that kombu knows", "use one of"),
        ({"options": {"delivery_mode": "fast"}}, "`options.delivery_mode` must be 1, 2, 'transient'", "leave it out"),
        ({"options": {"headers": [1]}}, "`options.headers` must be an object", "write"),
        ({"options": {"headers": {"timelimit": [1]}}}, "`options.headers` has `timelimit`, which workers", "use the option"),
        ({"options": {"headers": {"expires": "x"}}}, "`options.headers` has `expires`", "use the option `expires`"),
        ({"options": {"headers": {"stamped_headers": 5}}}, "`options.headers` has `stamped_headers`", "use the option"),
        ({"options": {"headers": {"x": 1, "delivery_info": 5}}}, "`options.headers` has `delivery_info`", "leave it out"),
        ({"options": {"countdown": 10**400}}, "`options.countdown` must be a number of seconds", "write a number"),
        ({"options": {"eta": 10**400}}, "`options.eta` must be an ISO 8601 time", "write it as in"),
        ({"options": {"stamped_headers": "x"}}, "`options.stamped_headers` must be a list of names", "leave it out"),
        ({"options": {"link": "t"}}, "`options.link` must be a signature or a list of them, and is 't'", "write"),
        ({"options": {"link_error": [{"task": "t"}, {}]}}, "`options.link_error` must be a signature", "write"),
        ({"options": {"expires": "soon"}}, "`options.expires` must be an ISO 8601 time", "write it as in 2030"),
        ({"options": {"expires": "2030-01-01T00:00:00"}}, "`options.expires` has no time zone", "write it as in 2030"),
        ({"options": {"expires": [1]}}, "`options.expires` must be a number of seconds or an ISO 8601 time, and is [1]", "write"),
        ({"options": {"expires": 1e12}}, "`options.expires` must be a number of seconds", "write it as"),
        ({"options": {"eta": "soon"}}, "`options.eta` must be an ISO 8601 time", "write it as in 2030"),
    ],
)  # fmt: skip
def test_mistake_in_a_node_says_what_is_allowed(node: dict[str, Any], message: str, next_step: str) -> None:
    """The node, the field, what is allowed and the next step: nobody has to look the form up."""
    with pytest.raises((BadNode, BadRequest)) as caught:
        decode({"nodes": [{"task": "t", "name": "a"}, {"task": "t", "name": "x", **node}]})
    assert str(caught.value).startswith("node 'x': ")
    assert message in str(caught.value)
    assert caught.value.next_step.startswith(next_step)


@pytest.mark.parametrize(
    ("fields", "message", "next_step"),
    [
        ({"node": []}, "unknown field `node`, at $", "did you mean 'nodes'?"),
        ({"nodes": {}}, "`nodes` must be an array, and is an object, at $.nodes", "write an array"),
        ({"nodes": [5]}, "node 1: a node must be an object, and is a whole number", "write an object with name, task"),
        ({"nodes": [{"task": "t", "retry": 1}]}, "node 1 (task 't'): `retry` must be", "write an object"),
        ({"policy": {"on_failure": "halt"}}, "`policy.on_failure` cannot be 'halt'", "use one of continue, stop"),
        ({"policy": {"deadline_s": -1}}, "`policy.deadline_s` must be a number >= 0", "write a number from 0 to"),
        ({"policy": {"weight": 0}}, "`policy.weight` must be a whole number >= 1", "write a whole number from 1 to 1000"),
        ({"policy": {"priority": "high"}}, "`policy.priority` must be a whole number, and is text", "write a whole number"),
        ({"policy": {"in_flight_max": -1}}, "`policy.in_flight_max` must be a whole number >= 0", "write a whole number, 0"),
        ({"policy": {"redeliveries_max": 1001}}, "`policy.redeliveries_max` must be a whole number <= 1000", "write"),
        ({"policy": {"retry": {"on": [1]}}}, "`policy.retry.on[0]` must be text", "write text of 1 to 200"),
        ({"policy": {"retry": {"backoff_s": 601}}}, "`policy.retry`: the longest pause, 600 s, is shorter", "raise"),
        ({"policy": {"start_at": "soon"}}, "`policy.start_at` must be an ISO 8601 time or Unix seconds", "write it as in 2030"),
        ({"policy": {"start_at": []}}, "`policy.start_at` must be a number or text, and is an array", ""),
        ({"policy": {"timeout": 1}}, "unknown field `timeout` in `policy`", "did you mean 'timeout_s'?"),
        ({"labels": {"": "x"}}, "`labels` must be text with a length >= 1, at $.labels", "write an object"),
        ({"labels": {"a": 1}}, "must be text, and is a whole number, at $.labels[...]", "write text"),
        ({"name": ""}, "`name` must be text with a length >= 1", "write text of 1 to 200"),
        ({"output": "tt"}, "`output` names 'tt', which is no node", "known are t-1"),
        ({"version": "1"}, "`version` must be a whole number, and is text", "write a whole number"),
        ({"parent_task": "x"}, "`parent_task` must be an object or null, and is text", "write an object with task_id, root_id"),
        ({"parent_task": {}}, "the field `task_id` of `parent_task` is missing", "add `task_id`"),
        ({"parent_task": {"task_id": ""}}, "`parent_task.task_id` must be text with a length >= 1", "write text of 1 to 200"),
        ({"parent_task": {"task_id": "x" * 201}}, "must be text with a length <= 200", "write text of 1 to 200"),
        ({"parent_task": {"task_id": 5}}, "`parent_task.task_id` must be text, and is a whole number", "write text"),
        ({"parent_task": {"task_id": "x", "root_id": ""}}, "`parent_task.root_id` must be text with a length >= 1", "write"),
        ({"parent_task": {"task_id": "x", "chord": 1}}, "unknown field `chord` in `parent_task`", "known are task_id, root_id"),
        ({"parent_task": {"task_id": "a\nb"}}, "`parent_task.task_id` has characters that cannot be printed", "leave"),
        ({"parent_task": {"task_id": "a", "root_id": "\x1b[2J"}}, "`parent_task.root_id` has characters", "leave"),
        (
            {"nodes": [{"task": "t", "task_id": "x"}], "parent_task": {"task_id": "x"}},
            "`parent_task.task_id` is 'x', a task of this workflow",
            "leave `parent_task` out",
        ),
    ],
)  # fmt: skip
def test_mistake_in_a_workflow_says_what_is_allowed(fields: dict[str, Any], message: str, next_step: str) -> None:
    """The same for what concerns all nodes."""
    with pytest.raises(BadRequest) as caught:
        decode({"nodes": [{"task": "t"}], **fields})
    assert message in str(caught.value)
    assert caught.value.next_step.startswith(next_step)


def test_a_missing_node_is_guessed_among_many() -> None:
    """The look for a resembling name has a bound."""
    nodes = [{"task": "t", "name": f"node-{number}"} for number in range(5000)]
    with pytest.raises(UnknownDependency) as caught:
        decode({"nodes": [*nodes, {"task": "t", "after": ["nod-7"]}]}, nodes_max=10_000)
    assert caught.value.next_step == "did you mean 'node-7'?"
