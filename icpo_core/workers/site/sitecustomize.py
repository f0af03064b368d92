"""What every Python below a worker does first: vLLM starts several, which inherit nothing else.

Then the `sitecustomize` that this one stands before, if the environment has one.
"""

import contextlib
import sys
from pathlib import Path

from icpo_core.common.strays import hide

hide()
sys.path.remove(str(Path(__file__).parent))
sys.modules.pop("sitecustomize", None)
with contextlib.suppress(ModuleNotFoundError):
    import sitecustomize  # noqa: F401
