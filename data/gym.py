"""Problems of reasoning-gym as a source of `icpo data prepare`: `icpo_core.method.gym` has them."""

from __future__ import annotations

from importlib.metadata import version

from icpo.data.sources import Source
from icpo_core.method import gym

PREFIX = gym.PREFIX


def from_gym(name: str) -> Source:
    """The problems that `name` says. Raises ValueError with one line."""
    family = name.removeprefix(PREFIX).partition("?")[0]
    origin = {"gym": name, "version": version(gym.PACKAGE)} if gym.problems(name) else {}
    return Source(family, gym.problems(name), origin)
