"""A machine as estimates see it: this one, or one that a TOML file describes.

[devices]
name = "H100 80GB"
count = 8
memory_gib = 79.6
[host]
cores = 96
memory_gib = 1000
shared_memory_gib = 500
disk_free_gib = 4000
[rates]                            # of the model in question, as far as known
sample_tokens_per_second = 3000    # a device
train_tokens_per_second = 6000     # a device, forward and backward
response_tokens = 4000             # mean
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from icpo_core.common import limits, resources, toml
from icpo_core.config import Section
from icpo_core.workers import devices

GIB = 1 << 30
SHARED_MEMORY = Path("/dev/shm")

Size = Annotated[float, Field(ge=0.0)]


class Devices(Section):
    """The GPUs; all alike."""

    name: str = ""
    """As the vendor calls it."""
    count: Annotated[int, Field(ge=0)] = 0
    """How many this run may use; 0: it runs on the CPU."""
    memory_gib: Size = 0.0
    """Memory of one, GiB."""


class Host(Section):
    """What the GPUs are in."""

    cores: Annotated[int, Field(ge=1)]
    """Cores that this process may use."""
    memory_gib: Size
    """Memory that this process may use, GiB."""
    shared_memory_gib: Size
    """Size of /dev/shm, GiB."""
    disk_free_gib: Size
    """Free where the run is stored, GiB."""


class Rates(Section):
    """How fast the model in question is there; what is unset is not estimated."""

    sample_tokens_per_second: Annotated[float | None, Field(gt=0.0)] = None
    """Sampled tokens a second on one device, with as many sequences in flight as fit."""
    train_tokens_per_second: Annotated[float | None, Field(gt=0.0)] = None
    """Tokens of prompt and response a second, forward and backward, on one device."""
    prompt_tokens: Annotated[float | None, Field(gt=0.0)] = None
    """Mean length of a bare prompt. Unset: the longest allowed."""
    response_tokens: Annotated[float | None, Field(gt=0.0)] = None
    """Mean length of a response. Unset: the longest allowed."""
    verdicts_per_second: Annotated[float, Field(gt=0.0)] = 100.0
    """Answers a judge reads a second."""
    disk_gib_per_second: Annotated[float, Field(gt=0.0)] = 1.0
    """Writing and reading weights."""


class Machine(Section):
    """One machine."""

    devices: Devices = Devices()
    host: Host
    rates: Rates = Rates()


def read(file: Path) -> Machine:
    """A described machine. Raises ValueError with one line that names the key."""
    try:
        return Machine.model_validate(toml.read(resources.find(file)))
    except ValidationError as error:
        raise ValueError(f"{file}: {toml.first_line(error, Machine)}") from None


def here(folder: Path) -> Machine:
    """This machine, with the disk that `folder` is or would be on."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = devices.visible()
    lines = devices.query("index", "memory.total", "name")
    chosen = [line.split(", ") for line in lines if line.split(", ")[0] in names] or [
        line.split(", ") for line in lines[: len(names)]
    ]
    shared = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
    return Machine(
        devices=Devices(
            name=chosen[0][2] if chosen else "",
            count=len(names),
            memory_gib=min(float(one[1]) for one in chosen) / 1024 if chosen else 0.0,
        ),
        host=Host(
            cores=limits.cores(),
            memory_gib=limits.memory() / GIB,
            shared_memory_gib=shared / GIB,
            disk_free_gib=shutil.disk_usage(folder.resolve()).free / GIB,
        ),
    )
