"""Losses of on-policy tokens, one a file: `loss.policy` names one of them, or your own.

The file `gspo.py` holds the function `gspo`. `base` says what such a function is given and must
return; `icpo_core.method.loss` puts it together with the other terms. How to write your own:
docs/extending.md.
"""

from icpo_core.method.policy_losses.base import LossInputs, PolicyLoss, PolicyTerm, policy_loss

__all__ = ["LossInputs", "PolicyLoss", "PolicyTerm", "policy_loss"]
