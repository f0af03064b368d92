"""What tests of runs under a Prefect server share."""

from fixtures_prefect import services  # noqa: F401
