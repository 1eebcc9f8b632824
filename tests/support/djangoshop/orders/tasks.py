"""Tasks that work on the database."""

from decimal import Decimal
from typing import Any

from celery import shared_task

from tests.support.djangoshop.base import ShopTask, TenantTask, tenant
from tests.support.djangoshop.orders.models import Order


class Urgent(ShopTask):
    """Goes first, and not for long."""

    abstract = True
    priority = 7
    time_limit = 33


@shared_task(base=ShopTask, name="orders.place")
def place(item: str, count: int) -> int:
    """Make an order and return its number."""
    return int(Order.objects.create(item=item, count=count).pk)


@shared_task(base=ShopTask, name="orders.reserve")
def reserve(order: int, count: int) -> dict[str, Any]:
    """Take what is ordered from the shelf."""
    Order.objects.filter(pk=order).update(state="reserved")
    return {"order": order, "count": count}


@shared_task(base=Urgent, name="orders.price")
def price(reserved: dict[str, Any]) -> Decimal:
    """Return the price, of a type that only kombu's JSON has."""
    return Decimal("9.90") * int(reserved["count"])


@shared_task(base=ShopTask, name="orders.refuse")
def refuse(*_: Any) -> None:
    """Fail."""
    raise ValueError("out of stock")


@shared_task(base=ShopTask, name="orders.archive", queue="bulk")
def archive(parts: list[Any]) -> list[str]:
    """Return what it is given, in words and in order."""
    return sorted(map(str, parts))


@shared_task(base=TenantTask, name="orders.whose")
def whose(before: Any = ()) -> list[str]:
    """Tell for whom it runs, after what it is given."""
    return [*before, tenant.get()]
