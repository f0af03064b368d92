"""The version of what a run stores: manifests, tables and `run.json`, as major.minor.

Within a major version everything stored can be read: a minor one adds fields, columns or files that
an older reader may leave aside, and an older run lacks. Another major version means something else.
"""

from __future__ import annotations

SCHEMA_VERSION = 1
"""Major version. Part of every fingerprint and of every digest of a table's rows."""
SCHEMA_MINOR = 0
"""Minor version. Part of neither."""


def is_newer(major: int, minor: int, where: str) -> bool:
    """Whether what `where` names was written by a newer minor version, which may have added to it.

    Raises ValueError for another major version.
    """
    if major != SCHEMA_VERSION:
        fix = (
            "update this program"
            if major > SCHEMA_VERSION
            else "read it with the version that wrote it"
        )
        raise ValueError(
            f"{where}: of schema version {major}.{minor}, and this program reads "
            f"{SCHEMA_VERSION}; {fix}"
        )
    return minor > SCHEMA_MINOR
