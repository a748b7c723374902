"""The checks of ``pooltasks check``: one module a subject, each check gives findings."""
