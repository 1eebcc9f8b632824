"""What tells one definition from another, whatever made them: for keys, which stand for one definition each.

Compared is what runs. Left aside are what it is called, its series, its sections if nothing waits for their ends, task ids,
payloads, what was adopted, and times that are named in advance (start, deadline, ETA, expiry): whoever repeats a submission makes
them anew.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import Any, Final

from dyrygentd.core.graph import Definition
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.policy import PLAIN, PLAIN_WORKFLOW

#: Written before each digest: those of another form say nothing.
_FORM: Final = "1:"
_TIMES: Final = frozenset({"start_at", "deadline_s"})


def digest_of(definition: Definition) -> str:
    """Return a short text that is the same for definitions that are."""
    digest = blake2b(digest_size=20)
    for words, content in _parts(definition):
        for text in (words, content):
            digest.update(b"%d:" % len(text))
            digest.update(text)
    return _FORM + digest.hexdigest()


def is_other(known: str, digest: str) -> bool:
    """Tell whether two digests are of different definitions; one that is missing, or of another form, tells nothing."""
    return known.startswith(_FORM) and digest.startswith(_FORM) and known != digest


def difference(known: Definition, given: Definition) -> str:
    """Say what the ``given`` definition has that the ``known`` one has not, or the other way round: the first thing found."""
    before, after = set(known.graph.names), set(given.graph.names)
    for names, said in ((after - before, "has no node"), (before - after, "has a node that this one has not,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"it {said} '{min(names)}'{more}"
    contents = dict(_parts(known))
    for words, content in _parts(given):
        if contents.get(words) != content:
            return f"{words.decode()} differ"
    return "the order of the nodes differs"


def _parts(definition: Definition) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over ``(words, what is compared)``."""
    graph = definition.graph
    yield b"the outputs", _text(None if graph.output is None else graph.names[graph.output])
    yield b"the policies", _text(_policy(definition.policy, PLAIN_WORKFLOW))
    if graph.choices.of_sections:
        whens = {path: when.text for path, when in graph.choices.of_sections.items()}
        yield b"the conditions of sections", _text(whens)
    own = {task_id: graph.names[node] for node, task_id in enumerate(graph.task_ids) if task_id} if graph.policies else {}
    for node, name in enumerate(graph.names):
        quoted = b"'%s'" % name.encode(errors="backslashreplace")
        signature, policy = graph.signatures[node], graph.policy(node)
        if signature is not None:
            yield b"the tasks of node " + quoted, _text([signature.task, signature.immutable])
            yield b"the arguments of node " + quoted, _arguments(signature, own)
            yield b"the options of node " + quoted, _options(signature)
        after = [] if policy.hook is not None else [graph.names[dependency] for dependency in graph.inputs(node)]
        yield b"the dependencies of node " + quoted, _text(after)
        if graph.section_ends is not None:
            yield b"the sections of node " + quoted, _text(graph.sections.of(node))
        yield b"the policies of node " + quoted, b"" if policy is PLAIN else _text(_policy(policy, PLAIN))


def _policy(policy: Any, plain: Any) -> dict[str, Any]:
    """Return what is not as usual, so that a field which a later version adds changes nothing."""
    values = {each.name: getattr(policy, each.name) for each in fields(policy)}
    return {
        name: _plain(value)
        for name, value in values.items()
        if name != "payload" and name not in _TIMES and value != getattr(plain, name)
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, bytes):
        # What a child or a map is, as it is written.
        return _canonical(value).decode()
    return sorted(value) if isinstance(value, frozenset) else value


def _arguments(signature: Signature, own: Mapping[str, str]) -> bytes:
    """Return the arguments; error callbacks of a chord's body are told its task id, which is another one each time."""
    args = signature.args
    if own and args.startswith(b'["'):
        beginning, quote, rest = args[2:].partition(b'"')
        name = own.get(beginning.decode(errors="replace"))
        if quote and name is not None:
            args = b'["of %s"%s' % (json.dumps(name)[1:-1].encode(), rest)
    return _canonical(args) + _canonical(signature.kwargs)


def _options(signature: Signature) -> bytes:
    countdown = b"%r" % signature.countdown_s
    if signature.options == b"{}":
        return countdown
    try:
        options = json.loads(signature.options)
    except (ValueError, RecursionError):
        return countdown + signature.options
    if signature.expires_at:
        options.pop("expires", None)
    if isinstance(options.get("stamped_headers"), list):
        options["stamped_headers"].sort(key=str)
    return countdown + _text(options)


def _canonical(text: bytes) -> bytes:
    """Return JSON text without what says nothing: blanks, and the order of members."""
    if text in (b"[]", b"{}"):
        return text
    try:
        return _text(json.loads(text))
    except (ValueError, RecursionError):
        # Numbers of thousands of digits, or nested too deeply for Python: as it came, then.
        return text


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
