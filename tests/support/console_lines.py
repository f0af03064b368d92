"""Standard error of a command without what it said while it waited (flows/ui/waiting.py)."""


def without_waiting(said: str) -> str:
    """All other lines: what is left of a mistake is one."""
    return "".join(line for line in said.splitlines(True) if not line.startswith("… "))
