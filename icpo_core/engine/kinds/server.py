"""A running `vllm serve` as the rollout engine: token ids in and out over HTTP.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --tokens-only --logprobs-mode processed_logprobs \\
        --generation-config vllm --worker-extension-cls icpo_core.engine.kinds.vllm.WorkerExtension

The process of this module is the run's end of one such endpoint and holds no model. Weights are
loaded by the server from the run's own folder, which it must see under the same path, and are
proven in the same way as an engine's of our own. The development routes that this needs let
anyone who reaches the port replace the weights: keep it in a private network.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from icpo_core.common.files import model_digest
from icpo_core.config import EngineSection
from icpo_core.engine.kinds.base import PROGRESS_SECONDS, Completion, Request, eos_token_ids, prove
from icpo_core.workers.jobs import EngineSettings
from icpo_core.workers.process import Say

TRIES = 5
FIRST_PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long, give or take a quarter."""
CONNECT_SECONDS = 10.0
COLD = 0.01
"""Temperature at which the logprobs of sampled tokens tell which kind they are."""
COLD_TOKENS, COLD_LIMIT = 16, -0.3
WORDS = 300
"""Characters of a server's answer that are shown."""


class EndpointError(RuntimeError):
    """An endpoint that does not answer, or not as it should, after all tries."""


class ServedEngine:
    """A vLLM engine behind an address."""

    def __init__(self, address: str, model: Path, settings: EngineSection) -> None:
        """`model`: a folder of the same architecture, for its end-of-sequence ids.

        Raises EndpointError if nothing answers, ValueError if the server was started otherwise than
        this module's head says.
        """
        self.address, self.settings = address.rstrip("/"), settings
        self.eos_ids = eos_token_ids(model)
        self.policy_version = ""  # whatever the server holds, until `load`
        self.asleep = False
        self._proof: tuple[Path, float | None] | None = None
        key = os.environ.get("VLLM_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        asyncio.run(self._check())

    def load(self, model: Path, policy_version: str) -> float:
        """Have the server load the weights in `model` and forget all cached prefixes.

        It is asked to every time: somebody else may have had it load others in between.
        """
        started = time.perf_counter()
        self.policy_version, self._proof = "", None
        if (found := model_digest(model)) != policy_version:
            raise ValueError(
                f"{model}: holds weights {found[:12]}, the run recorded {policy_version[:12]}; "
                "make the update that wrote them again"
            )
        asyncio.run(self._reload(model.resolve()))
        self.policy_version = policy_version
        return time.perf_counter() - started

    def prove(self, proof: Path, limit: float | None) -> float:
        """As `base.prove`; the proof is asked for again after every job."""
        gap = prove(self, self.settings.dtype, proof, limit)
        self._proof = proof, limit
        return gap

    def sleep(self) -> None:
        """Not ours to do: the server's devices are its own."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Logprob of each token given those before it, at temperature 1; none for the first."""
        params = {"temperature": 1.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
        replies = asyncio.run(self._ask([(ids, params) for ids in sequences], None))
        return [
            [reply["prompt_logprobs"][at][str(ids[at])]["logprob"] for at in range(1, len(ids))]
            for reply, ids in zip(replies, sequences, strict=True)
        ]

    def sample(
        self,
        requests: Sequence[Request],
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        on_progress: Say | None = None,
    ) -> list[Completion]:
        """Sample every request with its own seed, in the order given."""
        asked = [
            (
                request.prompt_ids,
                {
                    "temperature": temperature,
                    "top_p": top_p,
                    "max_tokens": max_tokens,
                    "seed": request.seed & 0x7FFFFFFFFFFFFFFF,
                    "logprobs": 0,
                    "detokenize": False,
                    "stop_token_ids": self.eos_ids,
                    "ignore_eos": True,
                },
            )
            for request in requests
        ]
        samples = [_sample(reply) for reply in asyncio.run(self._ask(asked, on_progress))]
        if self._proof is not None:
            try:
                prove(self, self.settings.dtype, *self._proof)
            except ValueError as error:
                # Restarted, or given other weights by somebody else, while it sampled.
                raise EndpointError(f"{self.address}: {error}") from error
        return samples

    # --- HTTP -------------------------------------------------------------------------------

    async def _check(self) -> None:
        """Whether all routes are there and logprobs are those of the divided logits."""
        cold = {"temperature": COLD, "max_tokens": 1, "logprobs": 0, "ignore_eos": True}
        prompts = [[self.eos_ids[0]] * (1 + length) for length in range(COLD_TOKENS)]
        replies = await self._ask([(ids, cold | {"detokenize": False}) for ids in prompts], None)
        logprobs = [_sample(reply).logprobs[0] for reply in replies]
        if sum(logprobs) / len(logprobs) < COLD_LIMIT:
            raise ValueError(
                f"{self.address}: gives logprobs of undivided logits; start it with "
                "--logprobs-mode processed_logprobs"
            )

    async def _reload(self, model: Path) -> None:
        async with self._client() as client:
            for method, kwargs in (
                ("reload_weights", {"weights_path": str(model)}),
                ("repack", {}),
            ):
                body = {"method": method, "kwargs": kwargs}
                call = partial(client.post, "/collective_rpc", json=body)
                answer = await self._send(call, once=True)
                if answer.status_code != 200:
                    raise ValueError(
                        f"{self.address}: refused {method} of {model} ({_words(answer)}); it must "
                        "see this path, run with VLLM_SERVER_DEV_MODE=1 and be started with "
                        "--worker-extension-cls icpo_core.engine.kinds.vllm.WorkerExtension"
                    )
            answer = await self._send(partial(client.post, "/reset_prefix_cache"))
            if answer.status_code != 200 or not answer.json().get("success"):
                raise ValueError(
                    f"{self.address}: keeps its prefix cache ({_words(answer)}): somebody else is "
                    "sampling there"
                )

    async def _ask(
        self,
        asked: Sequence[tuple[Sequence[int], dict[str, Any]]],
        on_progress: Say | None,
    ) -> list[dict[str, Any]]:
        """Replies in the order asked, `max_num_seqs` requests in flight."""
        gate = asyncio.Semaphore(self.settings.max_num_seqs)
        done, said = 0, time.monotonic()

        async def one(ids: Sequence[int], params: dict[str, Any]) -> dict[str, Any]:
            nonlocal done, said
            body = {"token_ids": list(ids), "sampling_params": params}
            async with gate:
                answer = await self._send(partial(client.post, "/inference/v1/generate", json=body))
            if answer.status_code != 200:
                raise ValueError(
                    f"{self.address}/inference/v1/generate: {_words(answer)}; start it with "
                    "--tokens-only (or --enable-scale-out) and --max-model-len "
                    f"{self.settings.max_model_len}"
                )
            done += 1
            if on_progress and time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                on_progress(done, len(asked))
            reply: dict[str, Any] = answer.json()
            return reply

        async with self._client() as client:
            tasks = [asyncio.create_task(one(ids, params)) for ids, params in asked]
            try:
                return await asyncio.gather(*tasks)
            finally:
                # The first that fails ends the others with it.
                for task in tasks:
                    task.cancel()

    def _client(self) -> httpx.AsyncClient:
        """How long an answer may take is the job's limit, which our parent keeps."""
        limits = httpx.Limits(max_connections=self.settings.max_num_seqs)
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        return httpx.AsyncClient(
            base_url=self.address, headers=self._headers, timeout=timeout, limits=limits
        )

    async def _send(
        self, send: Callable[[], Coroutine[Any, Any, httpx.Response]], once: bool = False
    ) -> httpx.Response:
        """An answer that is no passing failure. `once`: a server's own error is an answer too.

        Raises EndpointError after all tries.
        """
        pause, problem = FIRST_PAUSE, ""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))
                pause *= 2
            try:
                answer = await send()
            except httpx.TransportError as error:
                problem = f"{type(error).__name__} {error}".strip()
                continue
            passing = answer.status_code == 429 or (answer.status_code >= 500 and not once)
            if not passing:
                return answer
            problem = _words(answer)
        raise EndpointError(f"{self.address}: no answer after {TRIES} tries ({problem})")


def _words(answer: httpx.Response) -> str:
    return f"HTTP {answer.status_code} {answer.text[:WORDS]}"


def _sample(reply: dict[str, Any]) -> Completion:
    choice = reply["choices"][0]
    ids, content = choice["token_ids"], choice["logprobs"]["content"]
    assert [one["token_id"] for one in content] == ids, "one logprob a sampled token"
    return Completion(ids, [one["logprob"] for one in content], choice["finish_reason"])


def server(settings: EngineSettings) -> ServedEngine:
    """This process's end of the server."""
    return ServedEngine(settings.address, settings.model, settings.engine)
