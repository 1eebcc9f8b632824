"""Durable checkpoints in SQLite; the only room that knows the database."""
