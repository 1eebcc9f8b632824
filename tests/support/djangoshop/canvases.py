"""What the shop starts: the same canvases for Celery and for others."""

from typing import Any

from celery import chain, chord, group

from tests.support.djangoshop.media.tasks import probe, thumbnail
from tests.support.djangoshop.orders.tasks import archive, place, price, refuse, reserve, whose


def canvases() -> dict[str, Any]:
    """Return all of them by name."""
    return {
        "few": chain(place.s("book", 2), reserve.s(2), price.s()),
        "many": chain(place.s("pen", 500), reserve.s(500), price.s()),
        "pictures": chord([thumbnail.s("cover", size) for size in (1, 2, 3)], archive.s()),
        "mixed": chain(group(thumbnail.s("back", 9), place.si("lamp", 1)), archive.s()),
        "probed": chain(place.s("cup", 1), probe.s()),
        "tenants": chain(whose.s(), whose.s(), group(whose.s(), whose.s())),
        "refused": chain(place.s("sofa", 1), refuse.s(), price.s()),
    }


#: How the one that fails ends.
FAILING = "refused"


def few() -> Any:
    """Return one of them, for the command line."""
    return canvases()["few"]
