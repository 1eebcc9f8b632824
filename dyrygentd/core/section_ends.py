"""What runs at the end of sections: their ``finally`` nodes and their hooks, and for how much each of these waits.

*The idea.* What has to finish before something else may run is a *scope*. A section for whose end somebody waits has one or two:
all that belongs to it, with its subsections, before its ``finally``; and these together before its hooks. Each node is a part of
one scope, the innermost, and each scope of the next one around it; so a scope needs one counter, of what is open directly in it
and of the scopes in it that are open. Who waits for a scope *ends* it; there is no edge from each node to each of them.

*Inner before outer.* Who ends an inner section is a part of the outer one, which waits for it and fails with it. The workflow's
own hooks come last: they wait for all of this, as it is work to them.

*Tried and rejected.* Edges from each node of a section to each of its ends: n edges for each hook. A join in front of them, made
by us: one edge a node, but a node more that everybody who writes a graph down again has to leave out, and that hands on values.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence

from dyrygentd.core.policy import NodePolicy, SectionEnd
from dyrygentd.core.sections import SEPARATOR, Sections
from dyrygentd.errors import BadNode

#: Of a node or a scope: in no other one.
NO_SCOPE = -1
#: A scope: the path of a section, and whether its ``finally`` is a part of it.
_Key = tuple[str, bool]


class SectionEnds:
    """Who waits for the rest of a section, in one graph; immutable.

    Attributes:
        scope_of: For each node the scope of which it is a part, `NO_SCOPE` if nobody waits for its section.
        outer: For each scope the next one around it, or `NO_SCOPE`.
        paths: For each scope the section that it is of.
        parts: For each scope the nodes that are directly in it.
        inner: For each scope the scopes that are directly in it.
        enders: For each scope the nodes that wait for it; there is one at least.
        ended_by: ``{node that waits for a scope: the scope}``.
    """

    __slots__ = ("_policies", "ended_by", "enders", "inner", "outer", "parts", "paths", "scope_of")

    def __init__(self, names: Sequence[str], sections: Sections, policies: Mapping[int, NodePolicy]) -> None:
        self._policies = policies
        ends = {node: policy.section_end for node, policy in policies.items() if policy.section_end is not None}
        keys = dict.fromkeys((sections.of(node), end is not SectionEnd.FINALLY) for node, end in ends.items())
        # Inner ones first, and of one section the one without its ``finally``.
        ordered = sorted(keys, key=lambda key: (-key[0].count(SEPARATOR), key))
        numbers = {key: number for number, key in enumerate(ordered)}
        self.paths = [path for path, _ in ordered]
        self.outer = [_next_scope(numbers, path, is_behind_finally=has_finally) for path, has_finally in ordered]
        self.inner: list[list[int]] = [[] for _ in ordered]
        for scope, outer in enumerate(self.outer):
            if outer != NO_SCOPE:
                self.inner[outer].append(scope)
        self.enders: list[list[int]] = [[] for _ in ordered]
        self.ended_by: dict[int, int] = {}
        for node, end in ends.items():
            self.ended_by[node] = scope = numbers[sections.of(node), end is not SectionEnd.FINALLY]
            self.enders[scope].append(node)
        of_path = [_first_scope(numbers, path) for path in sections.paths]
        self.scope_of = array("i", [of_path[sections.number(node)] for node in range(len(names))])
        for node, scope in self.ended_by.items():
            self.scope_of[node] = _next_scope(numbers, self.paths[scope], is_behind_finally=ends[node] is not SectionEnd.FINALLY)
        self.parts: list[array[int]] = [array("I") for _ in ordered]
        for node, scope in enumerate(self.scope_of):
            if scope != NO_SCOPE:
                self.parts[scope].append(node)
        for scope, enders in enumerate(self.enders):
            if not self.parts[scope] and not self.inner[scope]:
                raise BadNode(
                    names[enders[0]],
                    f"`section_end`: section '{self.paths[scope]}' has no other node whose end it could wait for",
                    next_step="name the section whose nodes it follows, and see that there are any",
                )

    def __repr__(self) -> str:
        return f"<SectionEnds scopes={len(self.paths)} nodes={len(self.ended_by)}>"

    def ends_finally(self, node: int) -> bool:
        """Tell whether a node is a ``finally`` of its section."""
        return node in self.ended_by and self._policies[node].section_end is SectionEnd.FINALLY

    def nodes_in(self, scope: int) -> Iterator[int]:
        """Iterate over the nodes of a scope, those of the scopes in it included."""
        stack = [scope]
        while stack:
            scope = stack.pop()
            yield from self.parts[scope]
            stack += self.inner[scope]

    def scopes_around(self, node: int) -> Iterator[int]:
        """Iterate over the scopes in which a node is, the innermost first."""
        scope = self.scope_of[node]
        while scope != NO_SCOPE:
            yield scope
            scope = self.outer[scope]

    def has(self, scope: int, node: int) -> bool:
        """Tell whether a node is in a scope, or in one in it."""
        return scope in self.scopes_around(node)

    def following(self, node: int) -> Sequence[int]:
        """Return who waits for the scope of a node; they are parts of the next one, so whoever goes on from them finds all."""
        scope = self.scope_of[node]
        return self.enders[scope] if scope != NO_SCOPE else ()

    def leading_on(self, dependents: Callable[[int], Iterable[int]], hooks: Iterable[int]) -> frozenset[int]:
        """Return the nodes that are no ends of the graph: what ends sections, and what is in one for whose end others wait."""
        besides = {*hooks, *self.ended_by}
        behind = {scope for node, scope in self.ended_by.items() if not besides.issuperset(dependents(node))}
        return frozenset(self.ended_by).union(*(self.nodes_in(scope) for scope in behind))

    def open_counts(self) -> list[int]:
        """Return for each scope how much is open as long as nothing has finished."""
        return [len(parts) + len(inner) for parts, inner in zip(self.parts, self.inner, strict=True)]

    def closed_by(self, node: int, open_counts: MutableSequence[int]) -> list[int]:
        """Count that a node has finished; return the scopes of which it was the last one."""
        closed, scope = [], self.scope_of[node]
        while scope != NO_SCOPE:
            open_counts[scope] -= 1
            if open_counts[scope]:
                break
            closed.append(scope)
            scope = self.outer[scope]
        return closed


def _first_scope(numbers: Mapping[_Key, int], path: str) -> int:
    """Return the innermost scope in which a node of a section is."""
    while path:
        for key in ((path, False), (path, True)):
            if key in numbers:
                return numbers[key]
        path = path.rpartition(SEPARATOR)[0]
    return NO_SCOPE


def _next_scope(numbers: Mapping[_Key, int], path: str, *, is_behind_finally: bool) -> int:
    """Return the scope in which what ends another one is: the hooks of its own section wait for its ``finally``."""
    if not is_behind_finally and (path, True) in numbers:
        return numbers[path, True]
    return _first_scope(numbers, path.rpartition(SEPARATOR)[0])
