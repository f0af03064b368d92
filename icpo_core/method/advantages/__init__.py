"""Advantage estimators, one a file: `select.advantage` names one of them, or your own.

The file `group_mean.py` holds the function `group_mean`, which is called `group-mean` in the
configuration. `base` says what such a function is given and must return. How to write your own:
docs/extending.md.
"""

from icpo_core.method.advantages.base import Advantage, Floats, Groups, Ints, advantages

__all__ = ["Advantage", "Floats", "Groups", "Ints", "advantages"]
