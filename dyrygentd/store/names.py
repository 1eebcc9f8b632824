"""Names of nodes for people who read the database: rows of nodes have numbers, and the definition is deflated.

They have a table of their own, so that nothing that the daemon reads has to step over them, and an upgrade rewrites no
definition.
"""

import json
import zlib
from collections.abc import Sequence
from typing import Any, Final

import aiosqlite

SAVE: Final = "INSERT INTO node_names (workflow, names) VALUES (?, ?) ON CONFLICT (workflow) DO NOTHING"
#: What the upgrade calls the function below in SQL.
_FUNCTION: Final = "names_in_definition"


def names_text(names: Sequence[str]) -> str:
    """Return names as they are stored, in the order of the nodes: ``["name"]``."""
    return json.dumps(names)


async def teach(connection: aiosqlite.Connection) -> None:
    """Let SQL read the names in a definition, for the upgrade."""
    await connection.create_function(_FUNCTION, 1, _names_in_definition, deterministic=True)


def _names_in_definition(document: bytes) -> str | None:
    """Return the names in a definition as it was stored; None if it is damaged, which is no reason to refuse an upgrade."""
    try:
        content: Any = json.loads(zlib.decompress(document))
        return names_text([str(node["name"]) for node in content["nodes"]])
    except (zlib.error, ValueError, TypeError, KeyError, RecursionError):
        return None
