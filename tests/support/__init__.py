"""Real things for tests: Celery tasks, workers and servers."""
