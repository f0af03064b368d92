"""The door of the library, and the one name that an installed ICPO takes beside `icpo_core`.

`flows`, `tasks`, `data` and `configs` are links to the folders at the top of the checkout. In a
wheel they are folders. There is one name of each module, `icpo.flows.cli` and not `flows.cli`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icpo.library import grade, open, train
    from icpo_core.config import Config, load
    from icpo_core.method.loss import Totals
    from icpo_core.method.loss import icpo_loss as loss
    from icpo_core.method.policy_losses import LossInputs
    from icpo_core.method.selection import select

__all__ = ["Config", "LossInputs", "Totals", "grade", "load", "loss", "open", "select", "train"]

_PLACES = {
    "Config": "icpo_core.config:Config",
    "LossInputs": "icpo_core.method.policy_losses:LossInputs",
    "Totals": "icpo_core.method.loss:Totals",
    "grade": "icpo.library:grade",
    "load": "icpo_core.config:load",
    "loss": "icpo_core.method.loss:icpo_loss",
    "open": "icpo.library:open",
    "select": "icpo_core.method.selection:select",
    "train": "icpo.library:train",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: `import icpo` takes no time, and needs no torch."""
    if name == "__version__":
        return import_module("importlib.metadata").version("icpo")
    if name not in _PLACES:
        raise AttributeError(f"module 'icpo' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
