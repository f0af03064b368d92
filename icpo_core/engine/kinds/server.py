"""A running `vllm serve` as the rollout engine: token ids in and out over HTTP.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --tokens-only --logprobs-mode processed_logprobs \\
        --generation-config vllm --worker-extension-cls icpo_core.engine.kinds.vllm.WorkerExtension

A `ServedEngine` is the run's end of one such endpoint and holds no model; one process has those of
all (`icpo_core.engine.clients`). Weights are loaded by the server from the run's own folder, which
it must see under the same path, and are proven in the same way as an engine's of our own. With
`rollout.lora = "adapter"` the server keeps the base model that it was started with, and takes the
adapters of the run beside it; it needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora,
--max-lora-rank and, on a CPU, --lora-target-modules, too. The development routes that this needs
let anyone who reaches the port replace the weights, with a key too: keep it in a private network.

What a server says is not trusted: an answer is bounded in bytes and seconds, has the shape that is
read, and is never a redirect that is followed.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from icpo_core.common.files import model_digest
from icpo_core.common.text import line
from icpo_core.config import EngineSection, LoraSection
from icpo_core.engine.answers import (
    WORDS,
    Answer,
    EndpointError,
    Parts,
    Reply,
    TriedError,
    as_json,
)
from icpo_core.engine.calls import Calls
from icpo_core.engine.kinds.base import (
    PROGRESS_SECONDS,
    Compared,
    Completion,
    Gap,
    Request,
    head_fault,
    prove,
)
from icpo_core.engine.kinds.vllm import ADAPTER
from icpo_core.models import tokens
from icpo_core.workers.environment import endpoint_key
from icpo_core.workers.process import Say

TRIES = 5
FIRST_PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long, give or take a quarter."""
CONNECT_SECONDS = 10.0
ANSWER_SECONDS, TOKEN_SECONDS = 120.0, 0.5
"""How long an answer may take: so long, and for each token of prompt and response."""
LOAD_SECONDS = 1800.0
"""How long a server may take to load weights."""
WATCH_SECONDS, SILENT_SECONDS, SILENT_TIMES = 10.0, 20.0, 3
"""While it works, a server is asked for a sign of life so often; it may take so long to give one,
and is gone after so many that it did not."""
ANSWER_BYTES, TOKEN_BYTES = 1 << 20, 1 << 12
"""How long an answer may be: so many bytes, and for each token of prompt and response."""
COLD = 0.01
"""Temperature at which the logprobs of sampled tokens tell which kind they are."""
COLD_TOKENS, COLD_LIMIT = 16, -0.3
COLD_PARAMS = {
    "temperature": COLD, "max_tokens": 1, "logprobs": 0, "ignore_eos": True, "detokenize": False
}  # fmt: skip
LORA = "/v1/{}_lora_adapter"
"""Routes on which a server takes adapters, and lets them go."""
T = TypeVar("T")


@cache
def _tls() -> ssl.SSLContext:
    """Certificates are read once, which takes longer than a request."""
    return httpx.create_ssl_context()


class ServedEngine:
    """A vLLM engine behind an address."""

    def __init__(
        self,
        address: str,
        model: Path,
        settings: EngineSection,
        lora: LoraSection | None = None,
        calls: Calls | None = None,
    ) -> None:
        """`model`: a folder of the same architecture, for its end-of-sequence ids. lora: it is the
        base model that the server holds, and `load` gives it the adapter beside a folder's weights.
        calls: may be cancelled by another thread.

        Raises EndpointError if nothing answers, ValueError if the server was started otherwise than
        this module's head says, or is another machine's and no key is set.
        """
        self.address, self.settings = address.rstrip("/"), settings
        found = tokens.read(model)
        self.eos_ids, self._unknown = found.stop_ids, [list(one) for one in found.unknown]
        self.policy_version = ""  # whatever the server holds, until `load`
        self.asleep = False
        self._proof: tuple[Path, float | None] | None = None
        self._base = model.resolve() if lora is not None else None
        self._adapter = ""  # name of the one that is asked for; empty: the server's own weights
        self._usual: Gap | None = None
        self._run = (calls or Calls()).run
        key = endpoint_key(self.address)
        # Not compressed, so that few bytes cannot become many.
        self._headers = {"Accept-Encoding": "identity"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._run(self._check())

    def load(self, model: Path, policy_version: str) -> float:
        """Have the server load the weights in `model`, which are those of `policy_version`, and
        forget all cached prefixes.

        It is asked to every time: somebody else may have had it load others in between.
        """
        started = time.perf_counter()
        self.policy_version, self._proof = "", None
        if self._base is None:
            self._run(self._reload(model.resolve()))
        else:
            self._run(self._load_beside(model.resolve(), policy_version))
        self.policy_version = policy_version
        return time.perf_counter() - started

    def compare(self, model: Path) -> Compared | None:
        """As in the protocol; None of a server whose workers have no `compare`. An adapter is left
        to `prove`."""
        if self._base is None:
            return self._run(self._compare(model.resolve()))
        found = self._run(self._compare(self._base))
        if found is None or not self._adapter:
            return found
        return Compared(found.tensors, sorted({*found.unread, ADAPTER}), found.other)

    def prove(self, proof: Path, limit: float | None) -> Gap:
        """As `base.prove`; the proof is asked for again after every job."""
        gap = prove(self, self.settings.dtype, proof, limit, self._usual)
        self._usual, self._proof = self._usual or gap, (proof, limit)
        return gap

    def sleep(self) -> None:
        """Not ours to do: the server's devices are its own."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Logprob of each token given those before it, at temperature 1; none for the first."""
        params = {"temperature": 1.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
        replies = self._run(self._ask([(ids, params) for ids in sequences], None))
        return [self._scores(reply, ids) for reply, ids in zip(replies, sequences, strict=True)]

    def sample(
        self,
        requests: Sequence[Request],
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        on_progress: Say | None = None,
        top_k: int = 0,
    ) -> list[Completion]:
        """Sample every request with its own seed, in the order given. What the server fails at for
        one request again and again, while it answers others, is a completion of `error`."""
        asked = [
            (
                request.prompt_ids,
                {
                    "temperature": temperature,
                    "top_p": top_p,
                    "top_k": top_k,
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
        replies = self._run(self._ask(asked, on_progress, spare=True))
        samples = [self._sample(reply, max_tokens) for reply in replies]
        if self._proof is not None:
            try:
                prove(self, self.settings.dtype, *self._proof, self._usual)
            except ValueError as error:
                # Restarted, or given other weights by somebody else, while it sampled.
                raise EndpointError(f"{self.address}: {error}") from error
        return samples

    # --- HTTP -------------------------------------------------------------------------------

    async def _check(self) -> None:
        """Whether all routes are there and logprobs are those of the divided logits."""
        prompts = [[self.eos_ids[0]] * (1 + length) for length in range(COLD_TOKENS)]
        replies = await self._ask([(ids, COLD_PARAMS) for ids in prompts], None)
        logprobs = [self._sample(reply, 1).logprobs[0] for reply in replies]
        if sum(logprobs) / len(logprobs) < COLD_LIMIT:
            raise ValueError(
                f"{self.address}: gives logprobs of undivided logits; start it with "
                "--logprobs-mode processed_logprobs"
            )
        if self.settings.head_dtype == "same":
            return
        async with self._client() as client:
            post = partial(self._post, client, "/collective_rpc", {"method": "head", "kwargs": {}})
            answer = await self._watched(client, self._send(post, once=True))
        said = as_json(answer).get("results") if answer.status == 200 else None
        if not said or head_fault(self.settings, said):
            raise ValueError(
                f"{self.address}: its head is not in {self.settings.head_dtype} as the trainer's "
                '(update.head_dtype); start it with --hf-overrides \'{"head_dtype": "float32"}\''
            )

    async def _reload(self, model: Path) -> None:
        async with self._client() as client:
            calls: list[tuple[str, dict[str, Any]]] = [
                ("reload_weights", {"weights_path": str(model)}),
                ("repack", {}),
            ]
            if self._unknown:
                calls.append(("mask", {"ranges": self._unknown}))
            await self._rpc(client, calls, model)
            await self._forget(client)

    async def _load_beside(self, model: Path, policy_version: str) -> None:
        """Have the server take the adapter of `model`, or none for the base model itself."""
        assert self._base is not None
        folder, name = model / ADAPTER, f"icpo-{policy_version[:12]}"
        if not folder.is_dir():
            if policy_version != model_digest(self._base):
                raise ValueError(
                    f"{model}: has no adapter beside its weights; make the update again, or set "
                    "rollout.lora = merged"
                )
            name = ""
        async with self._client() as client:
            if self._unknown:
                await self._rpc(client, [("mask", {"ranges": self._unknown})], model)
            # Also one of this name that somebody else left there: it may be of other weights.
            for old in {self._adapter, name} - {""}:
                body = {"lora_name": old}
                await self._watched(
                    client, self._send(partial(self._post, client, LORA.format("unload"), body))
                )
            if name:
                body = {"lora_name": name, "lora_path": str(folder)}
                post = partial(self._post, client, LORA.format("load"), body, seconds=LOAD_SECONDS)
                answer = await self._watched(client, self._send(post, once=True))
                if answer.status != 200:
                    raise ValueError(
                        f"{self.address}: refused the adapter in {folder} ({answer.words}); it "
                        "must see this path, run with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and be "
                        "started with --enable-lora and --max-lora-rank"
                    )
            self._adapter = name
            await self._forget(client)

    async def _rpc(
        self, client: httpx.AsyncClient, calls: list[tuple[str, dict[str, Any]]], model: Path
    ) -> None:
        for method, kwargs in calls:
            body = {"method": method, "kwargs": kwargs}
            post = partial(self._post, client, "/collective_rpc", body, seconds=LOAD_SECONDS)
            answer = await self._watched(client, self._send(post, once=True))
            if answer.status != 200:
                raise ValueError(
                    f"{self.address}: refused {method} of {model} ({answer.words}); it must "
                    "see this path, run with VLLM_SERVER_DEV_MODE=1 and be started with "
                    "--worker-extension-cls icpo_core.engine.kinds.vllm.WorkerExtension"
                )

    async def _forget(self, client: httpx.AsyncClient) -> None:
        """Drop the prefixes of the weights before."""
        post = partial(self._post, client, "/reset_prefix_cache", {})
        answer = await self._watched(client, self._send(post))
        if answer.status != 200 or not as_json(answer).get("success"):
            raise ValueError(
                f"{self.address}: keeps its prefix cache ({answer.words}): somebody else is "
                "sampling there"
            )

    async def _compare(self, model: Path) -> Compared | None:
        kwargs = {"folder": str(model), "seed": random.getrandbits(31)}
        body = {"method": "compare", "kwargs": kwargs}
        async with self._client() as client:
            post = partial(self._post, client, "/collective_rpc", body, seconds=LOAD_SECONDS)
            answer = await self._watched(client, self._send(post, once=True))
        try:
            parts = Parts.model_validate(as_json(answer)).results
        except ValidationError:
            return None
        return Compared.of([part.model_dump() for part in parts])

    async def _ask(
        self,
        asked: Sequence[tuple[Sequence[int], dict[str, Any]]],
        on_progress: Say | None,
        spare: bool = False,
    ) -> list[Reply | None]:
        """Replies in the order asked, `max_num_seqs` requests in flight. spare: None for a request
        that fails while the server answers another."""
        gate = asyncio.Semaphore(self.settings.max_num_seqs)
        done, said = 0, time.monotonic()

        async def one(ids: Sequence[int], params: dict[str, Any]) -> Reply | None:
            nonlocal done, said
            async with gate:
                try:
                    reply = await self._generate(client, ids, params)
                except TriedError:
                    if not spare:
                        raise
                    await self._generate(client, self.eos_ids[:1], COLD_PARAMS)
                    reply = None
            done += 1
            if on_progress and time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                on_progress(done, len(asked))
            return reply

        async def all_() -> list[Reply | None]:
            tasks = [asyncio.create_task(one(ids, params)) for ids, params in asked]
            try:
                return await asyncio.gather(*tasks)
            finally:
                # The first that fails ends the others with it.
                for task in tasks:
                    task.cancel()

        async with self._client() as client:
            replies = await self._watched(client, all_())
        if replies and not any(replies):
            raise EndpointError(f"{self.address}: answers none of {len(replies)} requests")
        return replies

    async def _generate(
        self, client: httpx.AsyncClient, ids: Sequence[int], params: dict[str, Any]
    ) -> Reply:
        path = "/inference/v1/generate"
        body = {"token_ids": list(ids), "sampling_params": params}
        body |= {"model": self._adapter} if self._adapter else {}
        tokens = len(ids) + params["max_tokens"]
        answer = await self._send(partial(self._post, client, path, body, tokens))
        if answer.status != 200:
            raise ValueError(
                f"{self.address}{path}: {answer.words}; start it with --tokens-only (or "
                f"--enable-scale-out) and --max-model-len {self.settings.max_model_len}"
            )
        try:
            return Reply.model_validate_json(answer.content)
        except ValidationError as error:
            wrong = error.errors(include_input=False)[0]
            where = ".".join(map(str, wrong["loc"])) or "its answer"
            raise EndpointError(f"{self.address}{path}: {line(where)}: {wrong['msg']}") from None

    def _client(self) -> httpx.AsyncClient:
        """Never follows a redirect: the key, and the weights' path, are for this address."""
        limits = httpx.Limits(max_connections=self.settings.max_num_seqs + 1)
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        return httpx.AsyncClient(
            base_url=self.address,
            verify=_tls(),
            headers=self._headers,
            timeout=timeout,
            limits=limits,
            follow_redirects=False,
        )

    async def _watched(self, client: httpx.AsyncClient, work: Coroutine[Any, Any, T]) -> T:
        """Do it while the server gives signs of life. Raises EndpointError when it gives none."""
        doing, watching = asyncio.create_task(work), asyncio.create_task(self._watch(client))
        try:
            await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                watching.result()
            return doing.result()
        finally:
            for task in (doing, watching):
                task.cancel()
            await asyncio.gather(doing, watching, return_exceptions=True)

    async def _watch(self, client: httpx.AsyncClient) -> None:
        silent = 0
        while silent < SILENT_TIMES:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                # Any answer is one.
                async with asyncio.timeout(SILENT_SECONDS), client.stream("GET", "/health"):
                    silent = 0
            except (httpx.TransportError, TimeoutError):
                silent += 1
        raise EndpointError(f"{self.address}: gives no sign of life")

    async def _post(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: dict[str, Any],
        tokens: int = 0,
        seconds: float | None = None,
    ) -> Answer:
        """An answer within what `tokens` of prompt and response may take, in bytes and seconds.

        Raises EndpointError past either, and for a redirect."""
        most = ANSWER_BYTES + TOKEN_BYTES * tokens
        seconds = seconds or ANSWER_SECONDS + TOKEN_SECONDS * tokens
        content = bytearray()
        try:
            async with asyncio.timeout(seconds), client.stream("POST", path, json=body) as answer:
                async for part in answer.aiter_raw():
                    content += part
                    if len(content) > most:
                        raise EndpointError(f"{self.address}{path}: answers more than {most} bytes")
        except TimeoutError:
            raise EndpointError(f"{self.address}{path}: no answer in {seconds:.0f} s") from None
        if answer.is_redirect:
            raise EndpointError(
                f"{self.address}{path}: sends elsewhere, which is not followed; name the server's "
                "own address in rollout.endpoints"
            )
        return Answer(answer.status_code, bytes(content))

    async def _send(
        self, send: Callable[[], Coroutine[Any, Any, Answer]], once: bool = False
    ) -> Answer:
        """An answer that is no passing failure. `once`: a server's own error is an answer too.

        Raises TriedError after all tries.
        """
        pause, problem = FIRST_PAUSE, ""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))
                pause *= 2
            try:
                answer = await send()
            except httpx.TransportError as error:
                problem = line(f"{type(error).__name__} {error}", WORDS).strip()
                continue
            passing = answer.status == 429 or (answer.status >= 500 and not once)
            if not passing:
                return answer
            problem = answer.words
        raise TriedError(f"{self.address}: no answer after {TRIES} tries ({problem})")

    # --- answers ----------------------------------------------------------------------------

    def _sample(self, reply: Reply | None, most: int) -> Completion:
        if reply is None:
            return Completion([], [], "error")
        choice = reply.choices[0]
        ids, content = choice.token_ids, choice.logprobs.content if choice.logprobs else []
        if [one.token_id for one in content] != ids or len(ids) > most:
            raise EndpointError(
                f"{self.address}: {len(content)} logprobs of {len(ids)} tokens, asked for {most}"
            )
        return Completion(ids, [one.logprob for one in content], choice.finish_reason)

    def _scores(self, reply: Reply | None, ids: Sequence[int]) -> list[float]:
        assert reply is not None  # none is spared
        try:
            given = reply.prompt_logprobs or []
            scores = [
                float((given[at] or {})[str(ids[at])]["logprob"]) for at in range(1, len(ids))
            ]
        except (LookupError, TypeError, ValueError):
            raise EndpointError(f"{self.address}: gives no logprobs of a prompt") from None
        return scores
