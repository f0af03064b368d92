"""vLLM as the rollout engine, in this process.

On the CPU build a reload leaves the packed copy of a tied LM head stale without an error
(`repack`), and only the comparison of tensors notices what else may go wrong in this way.
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icpo_core.common import limits
from icpo_core.common.files import model_digest, require_weights
from icpo_core.common.seeds import stable_seed
from icpo_core.config import EngineSection, LoraSection
from icpo_core.engine.kinds.base import (
    PROGRESS_SECONDS,
    Compared,
    Completion,
    Gap,
    Request,
    head_fault,
    prove,
)
from icpo_core.models import tokens
from icpo_core.workers import devices, variables
from icpo_core.workers.address import LONGEST
from icpo_core.workers.jobs import EngineSettings
from icpo_core.workers.process import Say

CPU_BATCHED_TOKENS = 4096
"""Tokens that the CPU build takes in one step; a longer prompt is one step of its own."""
CPU_BLOCK = 32
"""Blocks of its KV cache have a multiple of so many tokens."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM has kernels for."""
CPU_INVARIANCE = "vLLM has no batch-invariant kernels for the CPU; nothing is switched"
"""What `rollout.deterministic` comes to without a GPU."""
ADAPTER = "adapter"
"""Folder beside published weights (`trainer.lora.FOLDER`)."""
SOCKET_NAME = len("/") + 36
"""Bytes of the name that vLLM gives a socket: a UUID."""


class WorkerExtension:
    """Methods that vLLM adds to its worker processes (`worker_extension_cls`)."""

    def repack(self) -> int:
        """Pack linear layers again whose weight is still there beside the packed copy.

        The CPU build packs each weight for oneDNN when the model is loaded. A reload packs the
        layers it loads, but a tied LM head shares its weight with the embedding, is not loaded by
        itself, and keeps the old packed copy. Returns how many layers were packed.
        """
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        packed = 0
        for module in self.model_runner.model.modules():  # type: ignore[attr-defined]
            weight = getattr(module, "weight", None)
            if hasattr(module, "cpu_linear") and weight is not None and weight.numel():
                dispatch_cpu_unquantized_gemm(module, remove_weight=False)
                packed += 1
        return packed

    def compare(self, folder: str, seed: int) -> dict[str, Any]:
        """The tensors that it holds beside a folder's (`engine.contents`)."""
        from icpo_core.engine.contents import compare

        return compare(self.model_runner, Path(folder), seed)  # type: ignore[attr-defined]

    def mask(self, ranges: list[list[int]]) -> None:
        """Give ids in `ranges` [first, end) no part in any distribution, sampled from or told.

        On the logits, for all requests at once: `allowed_token_ids` would send the vocabulary with
        every request.
        """
        model = self.model_runner.model  # type: ignore[attr-defined]
        plain = getattr(model, "plain_logits", None) or model.compute_logits

        def compute_logits(*arguments: Any, **named: Any) -> Any:
            logits = plain(*arguments, **named)
            for first, end in ranges if logits is not None else ():
                logits[..., first:end] = -math.inf
            return logits

        model.plain_logits, model.compute_logits = plain, compute_logits

    def reseed(self, seed: int) -> None:
        """Begin the generator that requests without a seed of their own are drawn from."""
        import torch

        torch.manual_seed(seed)

    def head(self) -> str:
        """The dtype of the product with the LM head."""
        return str(self.model_runner.model_config.head_dtype)  # type: ignore[attr-defined]


class VllmEngine:
    """A vLLM engine that lives in this process."""

    def __init__(
        self,
        model: Path,
        settings: EngineSection,
        seed: int,
        sleeps: bool = False,
        lora: LoraSection | None = None,
    ) -> None:
        """Start with the weights in `model`; takes 30 s and more. sleeps: `sleep` will be used.
        lora: those weights stay, and `load` takes the adapter beside the folder's own."""
        # One process for scheduler and model starts in a quarter of the time on two cores.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_kv_cache_gib))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if len(os.fsencode(tempfile.gettempdir())) > LONGEST - SOCKET_NAME:
            # Where vLLM has sockets by which several processes of one engine talk.
            os.environ.setdefault("VLLM_RPC_BASE_PATH", "/tmp")
        variables.require_of_vllm()
        from vllm import LLM
        from vllm.platforms import current_platform

        whole: dict[str, Any] = {}
        if current_platform.is_cpu():
            if (settings.block_size or CPU_BLOCK) % CPU_BLOCK:
                raise ValueError(
                    f"rollout.engine.block_size = {settings.block_size}: vLLM's CPU build takes "
                    f"multiples of {CPU_BLOCK}"
                )
            # A prompt that is prefilled in parts draws a token too many, and vLLM 0.32 takes back a
            # draw from the generator of a seeded request in a way that CPU generators cannot.
            whole = {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, settings.max_model_len),
            }
        if lora is not None:
            # It has kernels for some ranks, which serve lower ones too. Without targets it would
            # wrap the head as well, whose wrapper on the CPU tells no logprobs of prompts.
            served = min(rank for rank in LORA_RANKS if rank >= lora.rank)
            whole |= {"enable_lora": True, "max_lora_rank": served, "max_loras": 1}
            whole |= {"lora_target_modules": list(lora.target_modules)}
        self.llm = LLM(
            model=str(model),
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            tensor_parallel_size=settings.tensor_parallel,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            max_num_seqs=settings.max_num_seqs,
            enforce_eager=settings.enforce_eager,
            enable_prefix_caching=settings.prefix_caching,
            block_size=settings.block_size,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # no sampling defaults of the model's own
            skip_tokenizer_init=True,
            worker_extension_cls="icpo_core.engine.kinds.vllm.WorkerExtension",
            disable_log_stats=True,
            # The CPU build takes `sleep` and does nothing, and refuses this.
            enable_sleep_mode=sleeps and current_platform.is_sleep_mode_available(),
            seed=seed & 0x7FFFFFFF,
            hf_overrides={"head_dtype": "float32"} if settings.head_dtype == "float32" else {},
            **whole,
        )
        self.settings = settings
        if fault := head_fault(settings, self.llm.collective_rpc("head")):
            raise ValueError(fault)
        self.asleep = False
        found = tokens.read(model)
        self.eos_ids = found.stop_ids
        if found.unknown:
            self.llm.collective_rpc("mask", kwargs={"ranges": [list(one) for one in found.unknown]})
        self.policy_version = model_digest(model)
        self._base = (model, self.policy_version) if lora is not None else None
        self._adapter: Any = None  # vLLM's request for the one that is held
        self._usual: Gap | None = None
        self._unread: set[str] = set()
        # As vLLM has just loaded them: what is not as in the folder is in an order of its own.
        started = self.compare(model)
        self._unread = {*started.unread, *started.other}
        if self._unread:
            print(
                f"weights that no comparison reads: {', '.join(sorted(self._unread))}", flush=True
            )

    def load(self, model: Path, policy_version: str) -> float:
        """Replace the weights in place and forget all cached prefixes; wakes the engine. Seconds
        it took.

        Raises ValueError if the folder's weights are not those of `policy_version`.
        """
        started = time.perf_counter()
        if policy_version == self.policy_version:
            return 0.0
        require_weights(model, policy_version)
        self.policy_version = ""  # neither the old nor the new until the reload is through
        if self._base is not None:
            self._load_beside(model, policy_version)
            self._forget(policy_version)
            return time.perf_counter() - started
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(model)})
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            self.llm.collective_rpc("repack")
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self._forget(policy_version)
        return time.perf_counter() - started

    def _load_beside(self, model: Path, policy_version: str) -> None:
        """Hold the adapter of `model`, or none for the base model itself."""
        from vllm.lora.request import LoRARequest

        assert self._base is not None
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False
        held, folder = self._adapter, model / ADAPTER
        if folder.is_dir():
            number = held.lora_int_id + 1 if held else 1
            self._adapter = LoRARequest(policy_version[:12], number, str(folder))
        elif policy_version == self._base[1]:
            self._adapter = None
        else:
            raise ValueError(
                f"{model}: has no adapter beside its weights; make the update again, or set "
                "rollout.lora = merged"
            )
        if held:
            self.llm.llm_engine.remove_lora(held.lora_int_id)
        if self._adapter and not self.llm.llm_engine.add_lora(self._adapter):
            raise RuntimeError(f"vLLM does not take the adapter in {folder}")

    def _forget(self, policy_version: str) -> None:
        """Drop the prefixes of the weights before; from here on it holds these."""
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept prefixes of the weights before: some are still in use")
        self.policy_version = policy_version

    def sleep(self) -> None:
        """Give the device's memory back, weights and KV cache alike, until the next `load`. Weights
        that are not loaded again wait in the host's memory."""
        self.llm.sleep(level=1 if self._base else 2)
        self.asleep, self.policy_version = True, ""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Logprob of each token given those before it, at temperature 1; none for the first."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False, flat_logprobs=True
        )
        outputs = self._run(sequences, params)
        scores = []
        for output, ids in zip(outputs, sequences, strict=True):
            flat = output.prompt_logprobs
            # Position 0 has no logprob; the others hold the token itself and the likeliest one.
            scores.append(
                [flat.logprobs[flat.start_indices[position]] for position in range(1, len(ids))]
            )
        return scores

    def compare(self, model: Path) -> Compared:
        """As in the protocol; what it could not read of the weights that it started with is left
        to `prove`, and so is an adapter."""
        beside = [ADAPTER] if self._base and self._adapter else []
        model = self._base[0] if self._base else model
        seed = stable_seed("compare", self.policy_version, model.name)
        kwargs = {"folder": str(model), "seed": seed & 0x7FFFFFFF}
        found = Compared.of(self.llm.collective_rpc("compare", kwargs=kwargs))
        return Compared(
            found.tensors,
            sorted({*self._unread, *found.unread, *beside}),
            [name for name in found.other if name not in self._unread],
        )

    def prove(self, proof: Path, limit: float | None) -> Gap:
        """As `base.prove`."""
        gap = prove(self, self.settings.dtype, proof, limit, self._usual)
        self._usual = self._usual or gap
        return gap

    def sample(
        self,
        requests: Sequence[Request],
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        on_progress: Say | None = None,
        top_k: int = 0,
        seed: int | None = None,
    ) -> list[Completion]:
        """Sample every request with its own seed, or all from one generator that begins with
        `seed`; samples in the order given.

        Long prompts go in first, so that no long prefill is left for the end; requests of one
        prompt stay together.
        """
        from vllm import SamplingParams

        order = sorted(range(len(requests)), key=lambda at: -len(requests[at].prompt_ids))

        def asked(own: int | None) -> SamplingParams:
            return SamplingParams(
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                max_tokens=max_tokens,
                seed=None if own is None else own & 0x7FFFFFFFFFFFFFFF,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                stop_token_ids=self.eos_ids,
                ignore_eos=True,  # its own EOS id is unknown without a tokenizer; ours are given
            )

        params: Any
        # Who is drawn when, and a logprob's last bits, hang on what is cached, so nothing is: a
        # part that is made again comes to the same rows.
        self._forget(self.policy_version)
        if seed is None:
            params = [asked(requests[at].seed) for at in order]
        else:
            self.llm.collective_rpc("reseed", kwargs={"seed": seed & 0x7FFFFFFFFFFFFFFF})
            params = asked(None)
        outputs = self._run([requests[at].prompt_ids for at in order], params, on_progress)
        samples = dict(zip(order, (_sample(output.outputs[0]) for output in outputs), strict=True))
        return [samples[at] for at in range(len(requests))]

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        params: Any,
        on_progress: Say | None = None,
    ) -> list[Any]:
        """What `LLM.generate` does, reporting (finished, all) about once a second."""
        from vllm.inputs import TokensPrompt

        tokens = [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts]
        self.llm.enqueue(tokens, params, lora_request=self._adapter, use_tqdm=False)
        finished: list[Any] = []
        said = time.monotonic()
        while self.llm.llm_engine.has_unfinished_requests():
            finished += [output for output in self.llm.llm_engine.step() if output.finished]
            if on_progress and time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                on_progress(len(finished), len(tokens))
        # Request ids count up in the order of asking.
        return sorted(finished, key=lambda output: int(output.request_id))


def _sample(output: Any) -> Completion:
    ids = list(output.token_ids)
    flat = output.logprobs
    assert flat.token_ids == ids, "one logprob a sampled token, that of the token itself"
    return Completion(ids, list(flat.logprobs), output.finish_reason)


def keep_to_threads(threads: int) -> None:
    """Give this process so many threads; 0: one a core that it may use.

    Of several engines of a run each is kept to cores of its own. An engine alone is not: those of
    other runs would be kept to the same first core.

    vLLM binds the threads of processes that it spawns, and here it spawns none. OpenMP counts the
    cores when torch is loaded, which must not have happened.
    """
    assert "torch" not in sys.modules
    if bound := re.fullmatch(r"\d+(,\d+)*", os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "")):
        os.sched_setaffinity(0, [int(core) for core in bound.group().split(",")])
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    elif limits.cores() < len(os.sched_getaffinity(0)):  # a share of the time of all cores
        os.environ.setdefault("OMP_NUM_THREADS", str(limits.cores()))


def make_invariant() -> None:
    """Let samples depend on nothing else in their batch. Must come before vLLM is imported.

    vLLM takes it from the environment, and refuses an attention backend that has no such form. It
    sets cuBLAS, NCCL and TF32 itself. https://docs.vllm.ai/en/stable/features/batch_invariance/
    """
    assert "vllm" not in sys.modules
    if devices.visible():
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    else:
        print(f"rollout.deterministic: {CPU_INVARIANCE}", flush=True)


def vllm(settings: EngineSettings) -> VllmEngine:
    """The engine of this process. Must come before anything imports torch.

    Raises ValueError where this environment has no vLLM.
    """
    if find_spec("vllm") is None:
        raise ValueError(
            f"{sys.executable} has no vLLM: install icpo[cpu] or icpo[gpu] there, or name the "
            "Python of an environment that has it by rollout.python and update.python"
        )
    keep_to_threads(settings.engine.cpu_threads)
    if settings.deterministic:
        make_invariant()
    return VllmEngine(
        settings.model, settings.engine, settings.seed, settings.sleeps, settings.lora
    )
