"""The engine on the small model: real vLLM, once in this process and once in one of its own."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from icpo.data.arithmetic import bare_prompt, one_shot_prompt
from icpo_core.common.files import link_or_copy, model_digest, read_json, write_json
from icpo_core.config import EngineSection
from icpo_core.engine.jobs import rollout_shard
from icpo_core.engine.kinds.base import Completion, Request, require_alike
from icpo_core.engine.kinds.vllm import VllmEngine
from icpo_core.method.problems import read_problems
from icpo_core.store import tables
from icpo_core.trainer.microbatches import Row, collate
from icpo_core.trainer.policy import Policy, load_policy
from icpo_core.workers.jobs import EngineReady, EngineSettings, Load, Rollout
from icpo_core.workers.process import Worker, python_command

# Seen: 3e-5 at most, of tokens as unlikely as e^-20.
TOLERANCE = 1e-4
SECTION = EngineSection(dtype="float32", max_model_len=512, cpu_kv_cache_gib=1, block_size=32)
STEP = 3e-4
EOS = 1


@pytest.fixture(scope="module")
def prompts(small: Path) -> list[list[int]]:
    """Bare and one-shot prompts."""
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    problems = read_problems(str(small / "train.parquet"))["problem"].to_pylist()[:16]
    shown = read_problems(str(small / "demonstrations.parquet"))["problem"].to_pylist()
    texts = [bare_prompt(one) for one in problems[:8]]
    texts += [one_shot_prompt(*pair) for pair in zip(shown, problems[8:], strict=False)]
    return tokenizer(texts)["input_ids"]


@pytest.fixture(scope="module")
def engine(small: Path) -> VllmEngine:
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    return VllmEngine(small / "base", SECTION, 0)


def test_blocks_that_the_cpu_build_has_not_are_refused(engine: VllmEngine, small: Path) -> None:
    """Before anything is loaded, by the name of the key."""
    section = SECTION.model_copy(update={"block_size": 48})
    with pytest.raises(ValueError, match=r"block_size = 48: .* multiples of 32"):
        VllmEngine(small / "base", section, 0)


class Published:
    """Weights on disk as the trainer publishes them, and what they say."""

    def __init__(self, folder: Path, config: Path, weights: dict[str, torch.Tensor]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.weights = folder, weights
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        for file in config.iterdir():
            if file.suffix in (".json", ".jinja") and file.name != "recipe.json":
                link_or_copy(file, folder / file.name)
        self.version = model_digest(folder)

    @property
    def policy(self) -> Policy:
        return load_policy(self.folder, torch.float32, 1.0)

    def probe(self, sequences: list[list[int]]) -> Path:
        """As the trainer writes it."""
        rows = [
            {"token_ids": ids, "logprobs": logprobs}
            for ids, logprobs in zip(sequences, said(self.policy, sequences), strict=True)
        ]
        path = self.folder / "probe.parquet"
        tables.write("probe", tables.table("probe", rows), path)
        return path


@torch.no_grad()
def said(policy: Policy, sequences: list[list[int]], temperature: float = 1.0) -> list[list[float]]:
    """The trainer's logprobs of every token but the first."""
    rows = [Row(np.array(ids[:1]), np.array(ids[1:])) for ids in sequences]
    micro = collate(rows, 0, torch.device("cpu"))
    flat, _ = policy(micro.tokens_BS, micro.predictors_N, micro.targets_N, temperature=temperature)
    return [part.tolist() for part in flat.split([len(ids) - 1 for ids in sequences])]


def moved(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Every weight moved as far as Adam moves it in one step of the demo."""
    chance = torch.Generator().manual_seed(seed)
    return {
        name: value + STEP * torch.randn(value.shape, generator=chance).sign()
        for name, value in sorted(weights.items())
    }


@pytest.fixture(scope="module")
def base(small: Path) -> dict[str, torch.Tensor]:
    weights = load_file(small / "base" / "model.safetensors")
    return {name: value.float() for name, value in weights.items()}


@pytest.fixture(scope="module")
def now(base: dict[str, torch.Tensor], small: Path, tmp_path_factory: Any) -> Published:
    """One step away from the base."""
    return Published(tmp_path_factory.mktemp("now") / "model", small / "base", moved(base, 1))


def largest_gap(ours: list[list[float]], theirs: list[list[float]]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(np.array(one) - np.array(other)).max()) for one, other in pairs)


def gap_of_samples(
    policy: Policy, prompts: list[list[int]], samples: list[Completion], temperature: float = 1.0
) -> float:
    whole = [ids + sample.response_ids for ids, sample in zip(prompts, samples, strict=True)]
    told = said(policy, whole, temperature)
    tails = [one[-len(sample.logprobs) :] for one, sample in zip(told, samples, strict=True)]
    return largest_gap([sample.logprobs for sample in samples], tails)


# What is sampled.


def test_tokens_in_tokens_out(engine: VllmEngine, small: Path, prompts: list[list[int]]) -> None:
    """The same logprobs as the trainer's, also of ids that no text becomes."""
    policy = load_policy(small / "base", torch.float32, 1.0)
    samples = engine.sample([Request(ids, 7 + i) for i, ids in enumerate(prompts)], 1.0, 64)
    assert gap_of_samples(policy, prompts, samples) <= TOLERANCE
    odd = [[0, EOS, 2, 50, EOS, 0, 3], prompts[0] + [2, 2, EOS] + prompts[1]]
    assert largest_gap(engine.score(odd), said(policy, odd)) <= TOLERANCE
    assert (
        gap_of_samples(policy, odd, engine.sample([Request(o, 1) for o in odd], 1.0, 8))
        <= TOLERANCE
    )


def test_ids_without_a_token_have_no_part_in_sampling_and_in_the_trainer(
    engine: VllmEngine, small: Path, prompts: list[list[int]]
) -> None:
    """As of a padded vocabulary: never sampled, and the engine's logprobs are the trainer's."""
    absent = [(2, 20), (90, 99)]
    requests = [Request(ids, seed) for seed in range(4) for ids in prompts]
    engine.llm.collective_rpc("mask", kwargs={"ranges": [list(one) for one in absent]})
    try:
        samples = engine.sample(requests, 1.5, 24)
        scores = engine.score([[*prompts[0], *samples[0].response_ids]])
    finally:
        engine.llm.collective_rpc("mask", kwargs={"ranges": []})
    sampled = {token for sample in samples for token in sample.response_ids}
    assert sampled
    assert not any(first <= token < end for token in sampled for first, end in absent)
    model = AutoModelForCausalLM.from_pretrained(small / "base", dtype=torch.float32)
    policy = Policy(model, 1.5, absent=absent)
    for request, sample in zip(requests[:8], samples, strict=False):
        ids = torch.tensor([[*request.prompt_ids, *sample.response_ids]])
        first = len(request.prompt_ids)
        where = torch.arange(first - 1, ids.shape[1] - 1)
        with torch.no_grad():
            found, _ = policy(ids[:, :-1], where, ids[0, first:])
        assert torch.allclose(found, torch.tensor(sample.logprobs), atol=TOLERANCE)
    response = len(samples[0].response_ids)
    with torch.no_grad():
        ids = torch.tensor([[*prompts[0], *samples[0].response_ids]])
        where = torch.arange(len(prompts[0]) - 1, ids.shape[1] - 1)
        found, _ = policy(ids[:, :-1], where, ids[0, len(prompts[0]) :], temperature=1.0)
    assert torch.allclose(found, torch.tensor(scores[0][-response:]), atol=TOLERANCE)


def test_eos_is_kept_and_cut_rows_have_none(engine: VllmEngine, prompts: list[list[int]]) -> None:
    samples = engine.sample([Request(ids, i) for i, ids in enumerate(prompts)], 1.0, 64)
    assert {sample.finish_reason for sample in samples} == {"stop"}
    for sample in samples:
        assert sample.response_ids[-1] == EOS
        assert EOS not in sample.response_ids[:-1]
        assert len(sample.logprobs) == len(sample.response_ids)
    cut = engine.sample([Request(ids, i) for i, ids in enumerate(prompts)], 1.0, 5)
    for short, sample in zip(cut, samples, strict=True):
        assert short.finish_reason == "length"
        assert short.response_ids == sample.response_ids[:5]
        assert EOS not in short.response_ids


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_logprobs_are_those_of_the_temperature(
    engine: VllmEngine, small: Path, prompts: list[list[int]], temperature: float
) -> None:
    policy = load_policy(small / "base", torch.float32, 1.0)
    samples = engine.sample([Request(ids, i) for i, ids in enumerate(prompts)], temperature, 32)
    assert gap_of_samples(policy, prompts, samples, temperature) <= TOLERANCE
    assert gap_of_samples(policy, prompts, samples, 1.0) > 0.1


def test_a_seed_makes_a_row_whatever_is_beside_it(
    engine: VllmEngine, prompts: list[list[int]]
) -> None:
    requests = [Request(ids, 1000 + i) for i, ids in enumerate(prompts)]
    together = engine.sample(requests, 1.0, 64)
    assert len({tuple(sample.response_ids) for sample in together}) > 8
    backwards = engine.sample(requests[::-1], 1.0, 64)[::-1]
    alone = [engine.sample([request], 1.0, 64)[0] for request in requests]
    for others in (backwards, alone):
        assert [one.response_ids for one in others] == [one.response_ids for one in together]
        pairs = zip(others, together, strict=True)
        assert max(largest_gap([a.logprobs], [b.logprobs]) for a, b in pairs) <= TOLERANCE
    reseeded = engine.sample([Request(r.prompt_ids, r.seed + 1) for r in requests], 1.0, 64)
    assert [one.response_ids for one in reseeded] != [one.response_ids for one in together]


# What weights it holds.


@pytest.mark.parametrize("seeding", ["part", "rollout"])
def test_a_seed_makes_a_part_again(
    engine: VllmEngine, prompts: list[list[int]], seeding: str
) -> None:
    """One generator for all, or one a rollout: the same rows to the last bit whatever was sampled
    before, also where prefixes of these prompts are cached."""

    def part(seed: int) -> list[Completion]:
        requests = [Request(ids * 6, seed + own) for ids in prompts for own in range(4)]
        assert len(requests[-1].prompt_ids) > 64, "two blocks"
        return engine.sample(requests, 1.0, 48, seed=seed if seeding == "part" else None)

    first = part(5)
    engine.sample([Request(ids * 6, 1) for ids in prompts[::-1]], 1.0, 16)
    assert part(5) == first
    assert part(6) != first
    of_one_prompt = [tuple(one.response_ids) for one in first[:4]]
    assert len(set(of_one_prompt)) > 1


def test_a_partial_rollout_goes_on_under_the_next_policy(
    engine: VllmEngine,
    base: dict[str, torch.Tensor],
    small: Path,
    prompts: list[list[int]],
    tmp_path: Path,
) -> None:
    """Each token has the logprob of the policy that sampled it, behind all that was there."""
    far = base
    for number in range(40):
        far = moved(far, number)
    later = Published(tmp_path / "later", small / "base", far)
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    asked = [
        {
            "prompt_id": f"p{place}", "problem": "", "answer": "", "source": "",
            "policy_prompt": "", "policy_prompt_ids": prompts[place], "expert_prompt": "",
            "expert_prompt_ids": prompts[8 + place], "demo_ids": [], "trace": None,
        }
        for place in range(8)
    ]  # fmt: skip
    tables.write("prompts", tables.table("prompts", asked), tmp_path / "prompts.parquet")
    first = sample_job(later, tmp_path).model_copy(
        update={
            "prompts": tmp_path / "prompts.parquet", "on_policy": 3, "expert": 1, "max_tokens": 24,
            "partial_tokens": 12, "temperature": 2.0, "out": tmp_path / "part-1.parquet",
        }
    )  # fmt: skip
    then = first.model_copy(
        update={
            "iteration": 2, "policy": 1, "out": tmp_path / "part-2.parquet",
            "begun": [tmp_path / "unfinished-1.parquet"],
        }
    )  # fmt: skip
    engine.load(small / "base", model_digest(small / "base"))
    rollout_shard(engine, tokenizer, first, lambda done, all_: None)
    engine.load(later.folder, later.version)
    rollout_shard(engine, tokenizer, then, lambda done, all_: None)
    rows = tables.read("rollout", then.out).to_pylist()
    policies = load_policy(small / "base", torch.float32, 1.0), later.policy
    went_on, apart = 0, []
    for row in rows:
        place = int(row["prompt_id"][1:])
        shown = prompts[place if row["origin"] == "on_policy" else 8 + place]
        told = [
            said(one, [shown + row["response_ids"]], 2.0)[0][len(shown) - 1 :] for one in policies
        ]
        # What is whole of a group that is taken over was sampled before.
        mine = [told[one["policy"]][i] for i, one in by_token(row["segments"])]
        assert largest_gap([row["logprobs"]], [mine]) <= TOLERANCE
        assert row["response"] == tokenizer.decode(row["response_ids"], skip_special_tokens=True)
        assert len(row["response_ids"]) == 24 or row["response_ids"][-1] == EOS
        if {one["policy"] for one in row["segments"]} == {0, 1}:
            went_on += 1
            apart.append(largest_gap([row["logprobs"][12:]], [told[0][12:]]))
    assert went_on >= 8
    assert max(apart) > 100 * TOLERANCE  # or the policies would be too alike to tell
    assert tables.read("unfinished", tmp_path / "unfinished-2.parquet").num_rows == 0


def by_token(segments: list[dict[str, int]]) -> list[tuple[int, dict[str, int]]]:
    return list(enumerate(one for one in segments for _ in range(one["tokens"])))


def test_ten_reloads(
    engine: VllmEngine,
    base: dict[str, torch.Tensor],
    small: Path,
    prompts: list[list[int]],
    tmp_path: Path,
) -> None:
    weights = base
    for number in range(10):
        weights = moved(weights, number)
        published = Published(tmp_path / str(number), small / "base", weights)
        before = engine.score(prompts)
        assert engine.load(published.folder, published.version) > 0
        assert engine.load(published.folder, published.version) == 0  # it is there
        gap = engine.prove(published.probe(prompts), None)
        assert gap <= TOLERANCE
        assert largest_gap(before, engine.score(prompts)) > 100 * TOLERANCE
        samples = engine.sample([Request(ids, i) for i, ids in enumerate(prompts)], 1.0, 16)
        assert gap_of_samples(published.policy, prompts, samples) <= TOLERANCE


def test_a_folder_of_other_weights_is_refused(engine: VllmEngine, now: Published) -> None:
    with pytest.raises(ValueError, match=r"holds weights .* the run recorded deadbeef"):
        engine.load(now.folder, "deadbeef")


def names(base: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """What is left as it was: every tensor by itself, every layer, the LM head (tied: with the
    embedding), everything."""
    layers = {name: [name] for name in base}
    for layer in range(3):
        layers[f"layer {layer}"] = [name for name in base if f"layers.{layer}." in name]
    return layers | {"everything": list(base)}


def test_stale_weights_are_noticed(
    engine: VllmEngine,
    base: dict[str, torch.Tensor],
    now: Published,
    small: Path,
    prompts: list[list[int]],
    tmp_path: Path,
) -> None:
    """One step of the demo (3e-4 a weight) that did not reach them."""
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    sequences = [ids + tokenizer.encode(r"3+8=1;1*4=4;\boxed{4}") + [EOS] for ids in prompts]
    probe = now.probe(sequences[:8])
    engine.load(now.folder, now.version)
    assert engine.prove(probe, None) <= TOLERANCE
    for number, (what, stale) in enumerate(names(base).items()):
        mixed = now.weights | {name: base[name] for name in stale}
        folder = tmp_path / str(number)
        wrong = Published(folder, small / "base", mixed)
        engine.load(wrong.folder, wrong.version)
        with pytest.raises(ValueError, match="does not hold the weights it was told to load"):
            pytest.fail(f"{what}: {engine.prove(probe, None)}")
        assert engine.policy_version == ""  # so that no rollout is taken


def test_tensors_are_compared_with_those_of_the_file(
    engine: VllmEngine,
    base: dict[str, torch.Tensor],
    now: Published,
    small: Path,
    tmp_path: Path,
) -> None:
    """Whatever was left behind is seen, by a change that no logprob would show; nothing else is."""
    engine.load(now.folder, now.version)
    right = engine.compare(now.folder)
    assert (right.unread, right.other) == ([], [])
    assert right.tensors == len(base) + 1 - 3 * 3  # the head counts; q, k, v and gate, up are one
    for number, (what, stale) in enumerate(names(base).items()):
        moved_on = {name: torch.nextafter(now.weights[name], base[name] + 1) for name in stale}
        wrong = Published(tmp_path / str(number), small / "base", now.weights | moved_on)
        engine.load(wrong.folder, wrong.version)
        assert engine.compare(wrong.folder).other == []
        with pytest.raises(ValueError, match=r"tensors are not as in the file \(.*model"):
            pytest.fail(f"{what}: {require_alike(engine, now.folder)}")
        assert engine.policy_version == ""


def test_the_stale_lm_head_of_the_cpu_build_is_noticed(
    engine: VllmEngine,
    base: dict[str, torch.Tensor],
    small: Path,
    prompts: list[list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What vLLM does by itself with tied embeddings: the head keeps its packed copy."""
    published = Published(tmp_path / "model", small / "base", moved(base, 5))
    probe = published.probe(prompts)
    call = engine.llm.collective_rpc
    monkeypatch.setattr(
        engine.llm,
        "collective_rpc",
        lambda name, **kw: None if name == "repack" else call(name, **kw),
    )
    engine.load(published.folder, published.version)
    assert engine.compare(published.folder).other == ["lm_head.weight"]
    with pytest.raises(ValueError, match="does not hold the weights"):
        engine.prove(probe, None)
    monkeypatch.undo()
    engine.load(published.folder, published.version)
    assert engine.prove(probe, None) <= TOLERANCE


@pytest.mark.parametrize("forgets", [True, False])
def test_prefixes_of_the_weights_before_are_forgotten(
    engine: VllmEngine,
    base: dict[str, torch.Tensor],
    now: Published,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forgets: bool,
) -> None:
    """A prompt of several cache blocks (128 tokens): its keys and values are other ones now."""
    long = [3 + place * place % 90 for place in range(400)]
    requests = [Request(long, seed) for seed in range(4)]
    engine.load(now.folder, now.version)
    engine.sample(requests, 1.0, 8)
    after = Published(tmp_path / "model", small / "base", moved(base, 6))
    if not forgets:
        monkeypatch.setattr(engine.llm, "reset_prefix_cache", lambda: True)
    engine.load(after.folder, after.version)
    gap = gap_of_samples(after.policy, [long] * 4, engine.sample(requests, 1.0, 8))
    assert (gap <= TOLERANCE) == forgets, gap


def test_an_untied_model_in_a_process_of_its_own(
    base: dict[str, torch.Tensor], small: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    """The jobs that a run sends; ten reloads; a head of its own that is left behind."""
    config = tmp_path / "config"
    config.mkdir()
    for file in (small / "base").glob("*.json*"):
        link_or_copy(file, config / file.name)
    settings = read_json(small / "base" / "config.json") | {"tie_word_embeddings": False}
    (config / "config.json").unlink()
    write_json(config / "config.json", settings)
    weights = base | {"lm_head.weight": base["model.embed_tokens.weight"].clone()}
    published = Published(tmp_path / "0", config, weights)
    section = SECTION.model_copy(update={"cpu_threads": 1})
    command = python_command(
        None,
        "icpo_core.engine.process",
        EngineSettings(model=published.folder, engine=section, seed=0),
    )
    worker = Worker("engine", command, tmp_path / "engine.log", 300.0)
    try:
        assert worker.wait_ready() == EngineReady(policy_version=published.version).wire()
        # Not kept to a core, on which the engines of other runs would be, too.
        assert os.sched_getaffinity(worker.process.pid) == os.sched_getaffinity(0)
        for number in range(1, 11):
            weights = moved(weights, number)
            published = Published(tmp_path / str(number), config, weights)
            reply = worker.call(load_job(published, published.probe(prompts)), 60.0)
            assert reply.proof_gap is not None
            assert reply.proof_gap <= TOLERANCE
            assert reply.proof["weights_compared"] == len(weights) - 3 * 3
            assert reply.proof["weights_unread"] == 0
            assert reply.proof["probe_median"] <= reply.proof["probe_upper"] <= TOLERANCE
        for what in ("lm_head.weight", "model.embed_tokens.weight"):
            after = moved(weights, 11)
            right = Published(tmp_path / f"right {what}", config, after)
            wrong = Published(tmp_path / f"wrong {what}", config, after | {what: weights[what]})
            with pytest.raises(ValueError, match="does not hold the weights"):
                worker.call(load_job(wrong, right.probe(prompts)), 60.0)
            with pytest.raises(ValueError, match="holds weights of nothing proven"):
                worker.call(sample_job(wrong, tmp_path), 60.0)
    finally:
        worker.stop()


def load_job(published: Published, proof: Path) -> Load:
    return Load(
        model=published.folder,
        policy_version=published.version,
        proof=proof,
        max_logprob_gap=None,
    )


def sample_job(published: Published, folder: Path) -> Rollout:
    """For weights that may not be those that the engine holds: it is refused before all else."""
    return Rollout(
        prompts=folder / "none",
        shard=0,
        shards=1,
        on_policy=1,
        expert=0,
        expert_source="in_context",
        temperature=1.0,
        max_tokens=1,
        seed=0,
        iteration=1,
        policy_version=published.version,
        out=folder / "none",
        fingerprint="",
    )
