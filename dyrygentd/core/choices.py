"""Choices: which nodes run only if a condition over values holds. What it decides is found by `dyrygentd.core.deciding`.

*The idea.* A node's condition, its own or that of a section it is in, is looked at once the node's rule would let it go. If
it does not hold, the node is skipped as not needed, as a rule does: what depends on it with ``all_succeeded`` follows, and joins
with ``none_failed`` go on. The nodes whose values are asked for are dependencies; one that is not named in ``after`` only
decides, and hands nothing on.

*After a restart* the same is decided, since values are kept for whoever asks for them as for whoever takes them.

*Tried and rejected.* A state of its own for what was not chosen: it would have to be what "skipped, not needed" is already,
everywhere. Edges with conditions: a node behind two of them needs a rule for that as well, and two words for one thing.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from dyrygentd.core.conditions import When, nodes_of
from dyrygentd.core.node_spec import NodeSpec
from dyrygentd.core.sections import SEPARATOR
from dyrygentd.errors import BadNode

#: Of what is shown of the conditions of a node.
WORDS_MAX: Final = 500


#: Of all nodes together: each is an edge, and is looked at when its node is decided.
_ASKED_MAX: Final = 1_000_000


class Proviso(NamedTuple):
    """A condition that holds for a node; ``section`` is the path of the section that brings it, empty for the node's own."""

    when: When
    section: str = ""

    @property
    def words(self) -> str:
        """Whose condition it is."""
        return f"`when` of section '{self.section}'" if self.section else "`when`"


class Choices:
    """The conditions of one graph; immutable.

    Attributes:
        of_sections: ``{path: condition}``, as they were given.
        provisos: ``{node: its conditions}``: those of sections first, the outermost before all.
        deciders: ``{node: the nodes whose values are asked for}``.
        only_deciding: ``{node: those of them that are not in its ``after``}``; they come first among its dependencies.
    """

    __slots__ = ("deciders", "of_sections", "only_deciding", "provisos")

    def __init__(
        self,
        of_sections: Mapping[str, When],
        provisos: Mapping[int, tuple[Proviso, ...]],
        deciders: Mapping[int, Sequence[int]],
        only_deciding: Mapping[int, Sequence[int]],
    ) -> None:
        self.of_sections = of_sections
        self.provisos = provisos
        self.deciders = deciders
        self.only_deciding = only_deciding

    def __repr__(self) -> str:
        return f"<Choices {len(self.provisos)} nodes>"


NO_CHOICES: Final = Choices({}, {}, {}, {})


class Choosing:
    """Finds the conditions of a graph that is being built, and the edges from the nodes that they ask.

    Attributes:
        provisos: As those of `Choices`. Hooks of a workflow have none, since they run by how that ends.
    """

    def __init__(self, nodes: Sequence[NodeSpec], of_sections: Mapping[str, When]) -> None:
        self._of_sections = of_sections
        self._count = 0
        self._deciders: dict[int, Sequence[int]] = {}
        self._only_deciding: dict[int, Sequence[int]] = {}
        self.provisos: dict[int, tuple[Proviso, ...]] = {}
        known: dict[str, tuple[Proviso, ...]] = {"": ()}
        for number, node in enumerate(nodes):
            if node.policy.hook is not None:
                continue
            found: tuple[Proviso, ...] = ()
            if of_sections and node.section:
                if node.section not in known:
                    known[node.section] = tuple(
                        [Proviso(of_sections[path], path) for path in _paths_to(node.section) if path in of_sections]
                    )
                found = known[node.section]
            if node.policy.when is not None:
                found = (*found, Proviso(node.policy.when))
            if found:
                self.provisos[number] = found

    def __repr__(self) -> str:
        return f"<Choosing {len(self.provisos)} nodes>"

    def edges_of(self, number: int, name: str, after: Sequence[str], numbers: Mapping[str, int]) -> Sequence[int]:
        """Return what a node waits for beside ``after``. Raises `BadNode` if it asks itself, `KeyError` for an unknown name."""
        asked: dict[str, None] = {}
        for proviso in self.provisos[number]:
            for each in nodes_of(proviso.when.condition):
                if each == name:
                    reason = "its own value" if not proviso.section else f"the value of '{name}', which is in that section"
                    step = "ask for that of a node before it" if not proviso.section else f"take '{name}' out of the section"
                    raise BadNode(name, f"{proviso.words} asks for {reason}", next_step=step)
                asked[each] = None
        before = set(after)
        self._count += len(asked)
        if self._count > _ASKED_MAX:
            reason = f"the conditions of all nodes ask for more than {_ASKED_MAX} values, each node counted"
            raise BadNode(name, reason, next_step="let one node ask, and the others wait for that")
        self._deciders[number] = [numbers[each] for each in asked]
        self._only_deciding[number] = [numbers[each] for each in asked if each not in before]
        return self._only_deciding[number]

    def choices(self) -> Choices:
        """Return what was found."""
        if not self.provisos and not self._of_sections:
            return NO_CHOICES
        return Choices(self._of_sections, self.provisos, self._deciders, self._only_deciding)


def _paths_to(section: str) -> list[str]:
    """Return the paths of a section and those around it, the outermost first."""
    parts = section.split(SEPARATOR)
    return [SEPARATOR.join(parts[:count]) for count in range(1, len(parts) + 1)]


def words_of_provisos(choices: Choices, node: int) -> str:
    """Return the conditions of a node in words, empty if it has none."""
    return " and ".join([str(proviso.when) for proviso in choices.provisos.get(node, ())])[:WORDS_MAX]
