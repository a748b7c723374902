"""What runs inside a node: the parent process, its workers, their warm-up."""
