"""The rollout engine: vLLM in a process of its own, or a running server."""
