"""A reference deployment, as a user of pooltasks would write it: one module a pool."""
