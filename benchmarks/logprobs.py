"""Logprobs of sampled tokens and their gradient, ours beside plain log-softmax.

    python -m benchmarks.logprobs [--rounds 3] [--json FILE]

Default shape: 4,096 tokens x 151,936 vocabulary (Qwen3's) x width 1,024, float32. Both give the
logprob of every token and, backwards, the gradients of hidden states and of the head's weight. The
two take turns, in one process. Seconds are medians; those of the CPU are the steadier on a busy
machine, as long as its threads sleep while they wait (`OMP_WAIT_POLICY=passive`). Memory is the
largest peak above what stood before the call.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from icpo_core.common.console import Console, Table
from icpo_core.trainer.logprobs import token_logprobs

Work = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def plain(hidden_NW: Tensor, weight_VW: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    all_NV = torch.nn.functional.linear(hidden_NW, weight_VW).float().log_softmax(-1)
    return all_NV.gather(-1, targets_N[:, None]).squeeze(-1), all_NV.new_zeros(())


def plain_entropy(hidden_NW: Tensor, weight_VW: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    all_NV = torch.nn.functional.linear(hidden_NW, weight_VW).float().log_softmax(-1)
    with torch.no_grad():
        entropy_N = -(all_NV.exp() * all_NV).sum(-1)
    return all_NV.gather(-1, targets_N[:, None]).squeeze(-1), entropy_N


def ours(hidden_NW: Tensor, weight_VW: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    return token_logprobs(hidden_NW, weight_VW, targets_N, entropy=False)


def ours_entropy(hidden_NW: Tensor, weight_VW: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    return token_logprobs(hidden_NW, weight_VW, targets_N)


WORKS: dict[str, Work] = {
    "plain": plain,
    "ours": ours,
    "plain, entropy": plain_entropy,
    "ours, entropy": ours_entropy,
}


class Memory:
    """Peak above what stands when it is made, bytes: of the process, or of the CUDA device."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak of the process from here on
        self._before = self._peak()

    def _peak(self) -> int:
        if self._cuda:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        return int(status.split()[0]) << 10

    def extra(self) -> int:
        return self._peak() - self._before


def measure(work: Work, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, float, int]:
    """Wall and CPU seconds and peak extra bytes of value and gradient."""
    memory = Memory(inputs[0].device.type)
    started, cpu = time.perf_counter(), time.process_time()
    logprobs_N, _ = work(*inputs)
    (-logprobs_N.mean()).backward()
    extra = memory.extra()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    for tensor in inputs[:2]:
        tensor.grad = None
    return seconds, cpu, extra


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "dtype": getattr(torch, arguments.dtype),
        "device": arguments.device,
        "requires_grad": True,
    }
    inputs = (
        torch.randn(arguments.tokens, arguments.width, **options),
        torch.empty(arguments.vocabulary, arguments.width, **options),
        torch.randint(arguments.vocabulary, (arguments.tokens,), device=arguments.device),
    )
    with torch.no_grad():
        inputs[1].normal_(std=0.02)
    for work in WORKS.values():  # the first product of a shape chooses its kernel
        measure(work, (inputs[0][:8].detach().requires_grad_(), inputs[1], inputs[2][:8]))
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in WORKS}
    for _ in range(arguments.rounds):
        for name, work in WORKS.items():
            found[name].append(measure(work, inputs))
    figures = {
        name: {
            "seconds": median(wall for wall, _, _ in runs),
            "cpu_seconds": median(cpu for _, cpu, _ in runs),
            "extra_bytes": max(extra for _, _, extra in runs),
        }
        for name, runs in found.items()
    }
    ratios = {
        what: {key: value / figures[f"plain{what}"][key] for key, value in mine.items()}
        for what in ("", ", entropy")
        for mine in [figures[f"ours{what}"]]
    }
    table = Table(
        title=f"{arguments.tokens} tokens x {arguments.vocabulary} vocabulary x "
        f"{arguments.width} width, {arguments.dtype}, {arguments.device}"
    )
    for column in ("", "seconds", "CPU seconds", "extra MiB", "ratios: time", "CPU", "memory"):
        table.add_column(column, justify="left" if not column else "right")
    for name, figure in figures.items():
        ratio = ratios[name.removeprefix("ours")] if name.startswith("ours") else None
        table.add_row(
            name,
            f"{figure['seconds']:.2f}",
            f"{figure['cpu_seconds']:.2f}",
            f"{figure['extra_bytes'] / 2**20:.0f}",
            f"{ratio['seconds']:.2f}" if ratio else "",
            f"{ratio['cpu_seconds']:.2f}" if ratio else "",
            f"{ratio['extra_bytes']:.3f}" if ratio else "",
        )
    Console().print(table)
    if arguments.json:
        rows = {"figures": figures, "ratios": {k or "logprob": v for k, v in ratios.items()}}
        settings = {k: v for k, v in vars(arguments).items() if k != "json"}
        arguments.json.write_text(json.dumps({**settings, **rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
