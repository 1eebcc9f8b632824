"""dyrygentd: runs workflows of thousands of Celery tasks from one asyncio process."""

__version__ = "0.1.0"
