"""Help is there at once: the command line is known without what commands work with."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("prefect", "torch", "transformers", "pyarrow", "numpy", "pydantic", "vllm", "datasets")
SCRIPT = f"""
import sys
from icpo.flows import cli
cli.parser().format_help()
print(*sorted(set(sys.modules) & {set(HEAVY)!r}))
"""


def test_no_large_library_is_imported_for_help() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
