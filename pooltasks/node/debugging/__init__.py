"""A debugging node: operations run in its own process."""
