"""The worker process: it warms up, runs operations, and says how they ended."""
