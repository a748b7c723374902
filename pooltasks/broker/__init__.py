"""The path between ``.delay()`` and the result: messages, results, the Redis client."""
