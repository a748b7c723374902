"""A shop with FastAPI: its Celery application."""

import os

from celery import Celery

import pooltasks

app = Celery("shop", broker=os.environ["SHOP_REDIS"], backend=os.environ["SHOP_REDIS"])
pooltasks.install(app)
