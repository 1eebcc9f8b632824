"""dyrygentd: runs workflows of thousands of Celery tasks from one asyncio process."""
