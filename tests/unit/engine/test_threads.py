"""How many threads an engine on a CPU has, and on which cores."""

import os
import subprocess
import sys

import pytest

from icpo_core.common import limits

ASK = """
import os
from icpo_core.engine.kinds.vllm import keep_to_threads
keep_to_threads({})
import torch
print(torch.get_num_threads(), *os.sched_getaffinity(0))
"""
CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("threads", "given", "cores"),
    [
        (1, {}, CORES),
        (0, {}, CORES),
        (1, {"VLLM_CPU_OMP_THREADS_BIND": str(CORES[-1])}, CORES[-1:]),
    ],
)
def test_threads_and_cores(threads: int, given: dict[str, str], cores: list[int]) -> None:
    mine = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", ASK.format(threads)]
    said = subprocess.run(words, env=mine | given, capture_output=True, text=True, check=True)
    found, *kept = map(int, said.stdout.split())
    assert found == (threads or limits.cores())
    assert kept == cores
