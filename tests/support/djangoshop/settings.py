"""Django's settings, and Celery's among them."""

import json
import os

#: A file of SQLite, or a whole entry of DATABASES as JSON.
_DATABASE = os.environ.get("DYRYGENTD_TEST_DJANGO_DATABASE", ":memory:")

SECRET_KEY = "of a test"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": json.loads(_DATABASE)
    if _DATABASE.startswith("{")
    else {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _DATABASE,
        # Several workers write at once. Each waits for the others if it asks for the lock before it reads, and not afterwards.
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
    }
}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django_celery_results",
    "tests.support.djangoshop.orders",
    "tests.support.djangoshop.media",
]

CELERY_BROKER_URL = os.environ.get("DYRYGENTD_TEST_BROKER", "")
CELERY_RESULT_BACKEND = os.environ.get("DYRYGENTD_TEST_RESULTS", "django-db")
CELERY_RESULT_EXTENDED = True
CELERY_RESULT_SERIALIZER = os.environ.get("DYRYGENTD_TEST_RESULT_SERIALIZER", "json")
CELERY_TASK_ROUTES = ("tests.support.djangoshop.routes.route",)
CELERY_TASK_ANNOTATIONS = {"media.probe": {"priority": 3}}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
