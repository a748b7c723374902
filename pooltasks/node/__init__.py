"""The inside of a node: the parent process, its workers, their warm-up."""
