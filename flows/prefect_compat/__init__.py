"""Every place where Prefect is worked around."""
