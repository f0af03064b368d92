"""A run: what it is on disk, what a process has open, the plan and the loop."""
