"""The tasks behind the names in a workflow."""

import sys
from collections.abc import Mapping
from typing import Any, Final

#: These run another task on each item of a list, and are routed by its name.
MAPS: Final = frozenset({"celery.map", "celery.starmap"})


class KnownTasks:
    """The apps of the signatures that a workflow was built from. Guards: nothing of an app is asked for before it is needed."""

    def __init__(self) -> None:
        #: Whether what `apply_async` refuses is refused: it has been published already where a running workflow is taken over.
        self.is_strict = True
        self._apps: list[Any] = []
        self._tasks: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<KnownTasks apps={len(self._apps)} tasks={len(self._tasks)}>"

    @classmethod
    def of(cls, app: Any) -> "KnownTasks":
        """Return what one app knows."""
        known = cls()
        known.note_app(app)
        return known

    def __bool__(self) -> bool:
        """Tell whether any app is known."""
        return bool(self._apps)

    def __reduce__(self) -> Any:
        # A workflow may be copied or pickled, and an app is neither for it.
        return KnownTasks, ()

    def note(self, what: Mapping[str, Any]) -> None:
        """Remember the app of a signature, if it is an object of Celery's and no dict."""
        if type(what) is dict or what["task"] in self._tasks or not hasattr(what, "_app"):
            return
        self.note_app(what._app if what._app is not None else current_app())
        task = getattr(what, "_type", None)
        if task is not None and hasattr(task, "run"):
            # Celery hands out proxies of tasks that are made later.
            unwrapped = getattr(task, "_get_current_object", None)
            self._tasks[what["task"]] = task if unwrapped is None else unwrapped()
            self.note_app(task.app)

    def note_app(self, app: Any) -> None:
        """Remember an app; None is nothing to remember."""
        unwrapped = getattr(app, "_get_current_object", None)
        app = app if unwrapped is None else unwrapped()
        if app is not None and not any(app is known for known in self._apps):
            self._apps.append(app)

    def has_setting(self, name: str) -> bool:
        """Tell whether one of the apps has a setting switched on."""
        return any(app.conf.get(name) for app in self._apps)

    def noted(self, name: str) -> Any:
        """Return a task that came along with its signature, without asking any app."""
        return self._tasks.get(name)

    def task(self, name: str) -> Any:
        """Return a task, None if none of the apps has it."""
        if name not in self._tasks:
            self._tasks[name] = next((app.tasks[name] for app in self._apps if name in app.tasks), None)
        return self._tasks[name]

    def app_of(self, name: str) -> Any:
        """Return the app that would publish a task."""
        task = self.task(name)
        if task is not None and not name.startswith("celery."):
            return task.app
        return self._apps[0] if self._apps else None


def current_app() -> Any:
    """Return the app that Celery takes for a signature without one; None if this program has none."""
    # Asking Celery would make one.
    state: Any = sys.modules.get("celery._state")
    return None if state is None else state._tls.current_app or state.default_app


def route_name(task: str, kwargs: Any) -> str:
    """Return the name that routes see: of ``map``, ``starmap`` and ``chunks`` it is the task that they call."""
    inner = kwargs.get("task") if task in MAPS and isinstance(kwargs, Mapping) else None
    if isinstance(inner, Mapping):
        inner = inner.get("task")
    return inner if isinstance(inner, str) else task
