"""The documentation site: its reference pages are made from the code (`scripts/docs`)."""
