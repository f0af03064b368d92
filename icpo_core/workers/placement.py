"""Which devices the engines and the trainer get.

`colocated`: both have all of them, and the engines sleep while the trainer works. `split`: the
trainer has the first ones and the engines the rest. No device is ever given to two engines.
"""

from __future__ import annotations

from dataclasses import dataclass

from icpo_core.common import limits
from icpo_core.config import Config


@dataclass(frozen=True)
class Placement:
    """Devices by id. Without any, every list is empty and all processes share the CPU."""

    engines: list[list[str]]
    """Of each engine of our own, `rollout.engine.tensor_parallel` many; none with endpoints."""
    trainer: list[str]
    """Of this machine's ranks, one each."""
    ranks: int
    """Of the trainer, on all machines."""
    shared: bool
    """Engines and trainer lie on the same devices, so the engines sleep while it works."""


def place_engines(wanted: int, each: int, devices: list[str]) -> list[list[str]]:
    """Devices of each engine where no trainer is: `wanted` engines (0: as many as the devices
    hold, or one without devices) of `each` devices.

    Raises ValueError, with what there is and what to set, where they do not fit.
    """
    if not devices:
        return [[] for _ in range(wanted or 1)]
    count = wanted or len(devices) // each
    if not 0 < count * each <= len(devices):
        raise ValueError(
            f"{len(devices)} devices ({', '.join(devices)}) do not hold {max(count, 1)} engines of "
            f"{each}: lower process.engines or engine.tensor_parallel, or show more in "
            "CUDA_VISIBLE_DEVICES"
        )
    return [devices[number * each : (number + 1) * each] for number in range(count)]


def place(config: Config, devices: list[str], hosts: dict[str, int]) -> Placement:
    """Lay a run out over this machine's devices.

    hosts: slots by machine of the hostfile, this machine first; empty without one.
    Raises ValueError, with what there is and what to set, where it does not fit.
    """
    rollout, update = config.rollout, config.update
    each, where = rollout.engine.tensor_parallel, update.hostfile or ""
    if len(set(devices)) < len(devices):
        raise ValueError(f"the devices {', '.join(devices)} repeat: mend CUDA_VISIBLE_DEVICES")
    if hosts and update.ranks not in (0, sum(hosts.values())):
        raise ValueError(
            f"update.ranks = {update.ranks}, and {where} has {sum(hosts.values())} slots: set "
            "update.ranks = 0, or mend the hostfile"
        )
    if not devices:
        ranks = sum(hosts.values()) or update.ranks or 1
        engines = 0 if rollout.endpoints else rollout.engines or 1
        if engines and each > limits.cores():
            raise ValueError(
                f"rollout.engine.tensor_parallel = {each} needs as many devices or cores, and "
                f"there are no devices and {limits.cores()} cores: lower it"
            )
        return Placement([[] for _ in range(engines)], [], ranks, False)
    split = config.run.placement == "split"
    count = len(devices)
    here = next(iter(hosts.values())) if hosts else update.ranks
    if split and not here and not rollout.engines and not rollout.endpoints:
        raise ValueError(
            "run.placement = split needs update.ranks or rollout.engines: say how many devices the "
            f"trainer or the engines get of the {count}"
        )
    if rollout.endpoints:
        each, wanted, least = 0, 0, 0
    else:
        wanted, least = rollout.engines, 1
    here = here or (count - wanted * each if split else count)
    left = devices[here:] if split else devices
    engines = wanted or (len(left) // each if each else 0)
    if here > count or here < 1 or engines < least or engines * each > len(left):
        raise ValueError(
            f"{count} devices ({', '.join(devices)}) do not hold {max(here, 0)} ranks and "
            f"{max(engines, 1)} engines of {each} ({config.run.placement}): lower update.ranks, "
            "rollout.engines or rollout.engine.tensor_parallel, or show more in "
            "CUDA_VISIBLE_DEVICES"
        )
    if config.rollout.off_policy_steps and not split and engines:
        raise ValueError(
            f"rollout.off_policy_steps = {config.rollout.off_policy_steps} samples while the "
            "trainer is at work, and run.placement = colocated has both on the same devices: set "
            "run.placement = split, or rollout.off_policy_steps = 0"
        )
    return Placement(
        [left[number * each : (number + 1) * each] for number in range(engines)],
        devices[:here],
        sum(hosts.values()) or here,
        not split and engines > 0,
    )
