"""What the shop stores."""

from django.db import models


class Order(models.Model):  # noqa: DJ008  nobody prints one
    """An order."""

    total = models.IntegerField()
