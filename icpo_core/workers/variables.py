"""Environment variables that other people's libraries parse: the value that they refuse, by name.

vLLM looks at its own once it has started, and torch at its own while it is imported. Without a look
before, a server, an engine and a trainer would be waited for first.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import TracebackType
from typing import Any

from icpo_core.common.limits import memory
from icpo_core.common.text import line
from icpo_core.workers.environment import for_workers

TORCHS = ("TORCH_", "PYTORCH_", "DS_ACCELERATOR")
"""How the variables begin that torch and DeepSpeed parse as they are imported."""
PLACES = ("_HOME", "_DIR", "_PATH", "_CACHE")
"""How those of them end that name a place."""
FIX = "fix it or unset it"
GIB = 1 << 30
LONGEST = 200
"""Characters of what a library says."""


def require_of_vllm() -> None:
    """Raises ValueError for a value that vLLM of this environment refuses. Takes 30 ms."""
    for fault in _faults():
        raise ValueError(f"{fault}; {FIX}")


def require_of_torch() -> None:
    """Raises ValueError for a value that torch or DeepSpeed of this environment refuses. Imports
    them, in a process of its own, where there is a variable to be refused."""
    environment = for_workers()
    given = [name for name in environment if name.startswith(TORCHS) and not name.endswith(PLACES)]
    if given and find_spec("torch") is not None:
        accelerator = "DS_ACCELERATOR" in given and find_spec("deepspeed") is not None
        _require_import("deepspeed.accelerator" if accelerator else "torch", environment, given)


def _faults() -> Iterator[str]:
    known = _known_to_vllm()
    for name in sorted(for_workers().keys() & known.keys()):
        try:
            value = known[name]()
        except Exception as error:  # noqa: BLE001  somebody else's code
            yield f"{name}: {_line(error)}"
            continue
        if name == "VLLM_LOGGING_LEVEL" and value not in logging.getLevelNamesMapping():
            yield f"{name}={value}: is no level, as INFO or WARNING are"
        if name == "VLLM_LOGGING_CONFIG_PATH" and value and not Path(value).is_file():
            yield f"{name}={value}: no such file"
        if name == "VLLM_CPU_KVCACHE_SPACE" and value * GIB > memory():
            yield f"{name}={value}: GiB, and this machine has {memory() / GIB:.0f}"


def _known_to_vllm() -> Mapping[str, Callable[[], Any]]:
    """What vLLM makes of each of its variables. Its table needs nothing of the package, which
    imports torch. {} where there is no vLLM, or none with such a table."""
    found = find_spec("vllm")
    places = found.submodule_search_locations if found is not None else None
    file = Path(places[0]) / "envs.py" if places else None
    if file is None or not file.is_file():
        return {}
    spec = spec_from_file_location("icpo_variables_of_vllm", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    known: Mapping[str, Callable[[], Any]] = getattr(module, "environment_variables", {})
    return known


def _require_import(module: str, environment: Mapping[str, str], given: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"], env=environment, stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.rpartition("\nValueError: ")[2] or done.stderr
        raise ValueError(f"{', '.join(_spoken_of(said, given) or given)}: {_line(said)}; {FIX}")


def at_an_import(error: ValueError) -> str | None:
    """What a library says of a variable that it reads as it is imported, with the variable's name;
    None for any other error."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_name != "<module>":
        trace = trace.tb_next
    named = _spoken_of(str(error), os.environ) if trace is not None else []
    return f"{', '.join(named)}: {_line(error)}; {FIX}" if named else None


def _spoken_of(said: str, names: Collection[str]) -> list[str]:
    """Those variables whose name, or else whose value in quotes, is in a message."""
    words = set(re.findall(r"\w+", said))
    return sorted(words.intersection(names) - {"_"}) or sorted(
        name for name in names if repr(os.environ[name]) in said
    )


def _line(error: object) -> str:
    return line(error, LONGEST).rstrip(".,")
