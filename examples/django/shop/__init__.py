"""A shop with Django. Importing it makes its Celery application, as Celery's guide says."""

from shop.celery import app as celery_app

__all__ = ["celery_app"]
