"""The address of a Unix socket, whatever the length of its folder's path.

The kernel takes 107 bytes, and the folder for temporary files in a job of Slurm may be longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 107
"""Bytes of an address that `bind` and `connect` take (unix(7))."""


@contextmanager
def short(path: Path) -> Iterator[str]:
    """An address of the socket at `path` that fits, for this process and inside the block only.

    Raises OSError if the folder is not there.
    """
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
