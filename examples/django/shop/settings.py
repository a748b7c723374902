"""The settings of Django."""

import os

SECRET_KEY = "only for this example"  # noqa: S105  it protects nothing
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CELERY_BROKER_URL = os.environ["SHOP_REDIS"]
CELERY_RESULT_BACKEND = os.environ["SHOP_REDIS"]
