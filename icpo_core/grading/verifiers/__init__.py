"""Verifiers, one a file: `verify.verifier` names one of them.

The file `math_verify.py` holds the object `math_verify`, which is called `math-verify` in the
configuration. `base` says what such an object must do. `icpo_core.grading.pool` judges with it in
processes that can be killed.
"""

from typing import cast

from icpo_core.common import plugins
from icpo_core.grading.verifiers.base import Verifier

PACKAGE = "icpo_core.grading.verifiers"

__all__ = ["PACKAGE", "Verifier", "verifier"]


def verifier(name: str) -> Verifier:
    """The verifier of that name. Raises ModuleNotFoundError if there is none."""
    return cast(Verifier, plugins.resolve(name, PACKAGE))
