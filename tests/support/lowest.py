"""Print pip's constraints that hold every dependency at its lower bound: ``python tests/support/lowest.py [NAME…]``.

``pip install -e '.[test]' -c FILE`` with them installs the lowest of everything, and says so if those do not go together. (uv's
``--resolution lowest-direct`` would take a higher version without a word.) With names, only these are held.
Python 3.11 and 3.12 can be used: some of the lowest have no wheels for 3.13.
"""

import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

_BOUND = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=|==)\s*([\w.]+)")


def constraints(names: Collection[str] = ()) -> Iterator[str]:
    """Yield ``name==version`` for the dependencies and all extras; those without a lower bound are left to pip."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for requirement in {
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    }:
        bound = _BOUND.match(requirement)
        if bound is not None and (not names or bound[1] in names):
            yield f"{bound[1]}=={bound[2]}"


if __name__ == "__main__":
    print(*sorted(constraints(sys.argv[1:])), sep="\n")
