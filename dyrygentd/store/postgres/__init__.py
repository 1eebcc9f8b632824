"""Checkpoints in one schema of a PostgreSQL database; the only room that knows psycopg, which comes with the extra ``postgres``.

`dyrygentd.store.postgres.store` has the theory of operation.
"""

from dyrygentd.errors import StoreUnavailable


class StoreAway(StoreUnavailable):
    """Nobody serves the database at the moment: the server is down, starts, ends or cannot be reached. Waiting may be enough."""
