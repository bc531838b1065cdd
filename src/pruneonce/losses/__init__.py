"""Every loss that a stage minimizes."""
