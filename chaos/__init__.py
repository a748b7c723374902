"""Breaks a deployment on purpose, and accounts for every operation (``scripts/chaos``)."""
