"""The operations of the pool ``orders``."""

from pooltasks import operation


@operation(pool="orders", timeout=10)
def price(items: list[int]) -> int:
    """Return what the items cost together."""
    return sum(items)
