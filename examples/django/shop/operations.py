"""The operations of the pool ``orders``. They may use models: a node calls ``django.setup()``."""

from pooltasks import operation
from shop.models import Order


@operation(pool="orders")
def place(total: int) -> int:
    """Store an order; return its number."""
    return Order.objects.create(total=total).pk


@operation(pool="orders")
def revenue() -> int:
    """Return the total of all orders."""
    return sum(order.total for order in Order.objects.all())
