"""Verifiers, one a file: `verify.verifier` names one of them, or one's own.

The file `math_verify.py` holds the object `math_verify`, which is called `math-verify` in the
configuration. `base` says what such an object must do. `icpo_core.grading.pool` judges with it in
processes that can be killed.
"""

from typing import cast

from icpo_core.common import plugins
from icpo_core.grading.verifiers.base import Verifier

PACKAGE = "icpo_core.grading.verifiers"

__all__ = ["PACKAGE", "Verifier", "verifier"]


def verifier(name: str, digest: str | None = None, right_from: float = 1.0) -> Verifier:
    """The verifier of that name, or one's own, which is not executed yet.

    `digest`, `right_from`: as `Own` has them. Raises ModuleNotFoundError if there is none.
    """
    if plugins.is_own(name):
        from icpo_core.grading.own import Own

        return Own(name, digest, right_from)
    return cast(Verifier, plugins.resolve(name, PACKAGE))
