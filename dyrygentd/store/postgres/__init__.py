"""Checkpoints in one schema of a PostgreSQL database; the only room that knows psycopg, which comes with the extra ``postgres``.

`dyrygentd.store.postgres.store` has the theory of operation.
"""
