"""A shop on Django, laid out as Celery's tutorial for Django has it; nothing in it knows of this project.

Two Django apps with autodiscovered ``@shared_task``s, results in the database (`django-celery-results`), routes as code, a base
class of tasks that keeps a journal, queues and priorities in classes, and three queues. Settings come from the environment.
"""

from tests.support.djangoshop.celery import app as celery_app

__all__ = ("celery_app",)
