"""Runs as one page that opens from disk: plots, evaluations, and a browser of rollouts."""
