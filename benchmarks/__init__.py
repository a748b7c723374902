"""The speed of pooltasks, beside stock Celery and the other queues on Redis.

``scripts/bench broker``. Not part of the library, and not installed.
"""
