"""The trainer on the small model: real DeepSpeed, one rank in this process and two in others."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.arithmetic import bare_prompt, one_shot_prompt, solve
from data.base_model import sample
from icpo_core.common.files import model_digest
from icpo_core.config import LossSection, SelectSection, UpdateSection
from icpo_core.method.problems import read_problems
from icpo_core.method.selection import select
from icpo_core.store import tables
from icpo_core.store.tables import Origin
from icpo_core.trainer import logprobs, trainer
from icpo_core.trainer import policy as policy_module
from icpo_core.trainer.microbatches import Layout, Row, collate, rows_of
from icpo_core.trainer.policy import load_policy
from icpo_core.trainer.trainer import Trainer
from icpo_core.workers.launcher import free_port
from icpo_core.workers.process import Worker, python_command

pytestmark = pytest.mark.engine

PROMPTS, GROUP, MAX_TOKENS = 8, 8, 64
# Adam's step moves a weight by about the learning rate, whatever its gradient, but where that is as
# small as Adam's epsilon (1e-8): there rounding shows, in a few weights of 0.6 million. So both are
# asked: no weight off by more than 1e-6, and all of them together off by next to nothing.
RATE = 3e-5
SETTINGS = {"learning_rate": RATE, "dtype": "float32", "max_logprob_gap": 1.0}
PLAIN = LossSection(kl="off", kl_coefficient=0.0)
WHOLE = LossSection(kl_coefficient=0.05, entropy_coefficient=0.01)
TOLERANCE, SHARE_OF_A_STEP = 1e-6, 2e-4
# Of how the work was cut up, not of what was learned.
ABOUT_THE_WORK = {"padding_share", "shared_share", "rows", "rows_without_signal"}


Case = tuple[list[Path], LossSection, dict[str, Any]]


@dataclass
class Steps:
    """What some updates in a row left behind."""

    metrics: list[dict[str, float]]
    weights: list[dict[str, torch.Tensor]]


def update(
    trainer: Trainer, files: list[Path], folder: Path, parent: str = "", first: int = 1
) -> Steps:
    steps = Steps([], [])
    for number, file in enumerate(files, first):
        out = folder / f"it-{number}"
        reply = trainer.update(
            {
                "parent": parent or trainer.base_version,
                "restore": {"folder": None, "replay": []},
                "batch": str(file),
                "iteration": number,
                "state_id": f"state-{number}",
                "out": str(out),
            }
        )
        assert reply["policy_version"] == model_digest(out / "model")
        work, rows = reply["work"], reply["metrics"]["rows"]
        assert (work["tokens"] > 0) == (work["flops"] > 0) == (rows > 0)
        assert (work["tokens"] >= 2 * rows, work["device"]) == (True, "")  # a CPU has no peak
        parent = f"state-{number}"
        steps.metrics.append(reply["metrics"])
        steps.weights.append(load_file(out / "model" / "model.safetensors"))
    return steps


def train(
    small: Path, files: list[Path], folder: Path, loss: LossSection = PLAIN, **settings: Any
) -> Steps:
    section = UpdateSection(**{**SETTINGS, **settings})
    return update(Trainer(small / "base", loss, section, 1.0), files, folder)


def assert_same_weights(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    """tolerance: of any one weight; the root of the mean square is held to far less."""
    assert found.keys() == expected.keys()
    gaps = torch.cat([(found[name] - expected[name]).flatten() for name in found])
    assert float(gaps.abs().max()) <= tolerance
    assert float(gaps.square().mean().sqrt()) <= SHARE_OF_A_STEP * RATE


def assert_same(found: Steps, expected: Steps, tolerance: float = TOLERANCE) -> None:
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        assert_same_weights(ours, theirs, tolerance)
    for ours, theirs in zip(found.metrics, expected.metrics, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - ABOUT_THE_WORK:
            # The largest of all gaps is one token's: a logprob of -10 is rounded to 1e-6 itself.
            least = 5e-6 if name == "engine_gap/max" else 2e-6
            wanted = pytest.approx(theirs[name], rel=2e-5, abs=least, nan_ok=True)
            assert ours[name] == wanted, name


def batches(small: Path, folder: Path, count: int) -> list[Path]:
    """Batches of 8 groups of 7+1 rollouts that the base model makes, one an iteration."""
    model = AutoModelForCausalLM.from_pretrained(small / "base", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    policy = load_policy(small / "base", torch.float32, 1.0)
    problems = read_problems(str(small / "train.parquet"))["problem"].to_pylist()
    shown = read_problems(str(small / "demonstrations.parquet"))["problem"].to_pylist()
    chosen = problems[: count * PROMPTS]
    torch.manual_seed(0)
    bare = [bare_prompt(problem) for problem in chosen for _ in range(GROUP - 1)]
    expert = [one_shot_prompt(shown[i], problem) for i, problem in enumerate(chosen)]
    bare_ids, expert_ids = tokenizer(bare)["input_ids"], tokenizer(expert)["input_ids"]
    answers = sample(model, tokenizer, bare), sample(model, tokenizer, expert)
    files = []
    for number in range(count):
        prompts, rollouts, verdicts = [], [], []
        for place in range(number * PROMPTS, (number + 1) * PROMPTS):
            key = f"{place:03d}"
            sources = [
                (Origin.ON_POLICY, bare_ids[i], answers[0][i])
                for i in range(place * (GROUP - 1), (place + 1) * (GROUP - 1))
            ]
            sources.append((Origin.EXPERT, expert_ids[place], answers[1][place]))
            prompts.append(
                {
                    "prompt_id": key,
                    "problem": chosen[place],
                    "answer": str(solve(chosen[place])),
                    "source": "",
                    "policy_prompt": bare[place * (GROUP - 1)],
                    "policy_prompt_ids": bare_ids[place * (GROUP - 1)],
                    "expert_prompt": expert[place],
                    "expert_prompt_ids": expert_ids[place],
                    "demo_ids": [],
                    "trace": None,
                }
            )
            responses = [tokenizer.encode(text + "<eos>")[:MAX_TOKENS] for _, _, text in sources]
            logprobs = scored(policy, [ids for _, ids, _ in sources], responses)
            for index, (origin, _, text) in enumerate(sources):
                right = text.endswith(rf"\boxed{{{solve(chosen[place])}}}")
                shared = {"prompt_id": key, "sample_index": index, "origin": origin}
                rollouts.append(
                    {
                        **shared,
                        "response": text,
                        "response_ids": responses[index],
                        "logprobs": logprobs[index],
                        "finish_reason": "stop",
                        "seed": 0,
                        "policy_version": "",
                    }
                )
                verdicts.append(
                    {
                        **shared,
                        "reward": float(right),
                        "status": "correct" if right else "wrong",
                        "extracted": None,
                        "gold": "",
                        "seconds": 0.0,
                        "detail": "",
                    }
                )
        chosen_rows = select(
            tables.table("prompts", prompts),
            tables.table("rollout", rollouts),
            tables.table("verdicts", verdicts),
            SelectSection(),
            number + 1,
            0,
        )
        path = folder / f"batch-{number + 1}.parquet"
        files.append(tables.write("batch", chosen_rows.batch, path))
    return files


@torch.no_grad()
def scored(policy: Any, prompts: list[list[int]], responses: list[list[int]]) -> list[Any]:
    rows = [Row(np.array(p), np.array(r)) for p, r in zip(prompts, responses, strict=True)]
    micro = collate(rows, 0, torch.device("cpu"))
    flat, _ = policy(micro.tokens_BS, micro.predictors_N, micro.targets_N, entropy=False)
    return [part.tolist() for part in flat.split([len(r) for r in responses])]


@pytest.fixture(scope="module")
def stored(small: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three batches of the base model's own rollouts."""
    return batches(small, tmp_path_factory.mktemp("batches"), 3)


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """This process as the only rank; an engine in it may have been the first to say so."""
    ours = not dist.is_initialized()
    join(0, 1, free_port())
    yield
    if ours:
        dist.destroy_process_group()


def join(rank: int, ranks: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)


@pytest.fixture(scope="module")
def plain(small: Path, stored: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """Two updates, each in one micro-batch or two."""
    return train(small, stored[:2], tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def whole(small: Path, stored: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """All terms of the loss, and two optimizer steps an update."""
    return train(small, stored[:2], tmp_path_factory.mktemp("whole"), WHOLE, mini_batch=4)


def test_one_update_is_the_loss_by_hand(small: Path, stored: list[Path], plain: Steps) -> None:
    """Plain PyTorch: the whole batch padded, one backward, clip, AdamW."""
    rows = rows_of(tables.read("batch", stored[0]))
    policy = load_policy(small / "base", torch.float32, 1.0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)
    micro = collate(rows, 0, torch.device("cpu"))
    logits = policy.model.base_model(input_ids=micro.tokens_BS).last_hidden_state
    logits = logits @ policy.model.get_input_embeddings().weight.T
    flat = logits.log_softmax(-1).flatten(0, 1)[micro.predictors_N]
    logprobs_BT = micro.spread(flat.gather(1, micro.targets_N[:, None]).squeeze(1))
    mask_BT, experts_B1 = micro.mask_BT.float(), micro.expert_B[:, None]
    ratio_BT = (logprobs_BT - logprobs_BT.detach()).exp()
    rho_BT = logprobs_BT.exp()
    gain_BT = torch.where(experts_B1, rho_BT / (rho_BT + 0.01), ratio_BT)
    loss = -(gain_BT * micro.advantages_B[:, None] * mask_BT).sum() / mask_BT.sum()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    by_hand = {name: value.detach() for name, value in policy.model.named_parameters()}
    assert_same_weights(plain.weights[0], by_hand, TOLERANCE)
    assert plain.metrics[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert plain.metrics[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"token_budget": 400},
        {"token_budget": 1},
        {"packing": True},
        {"packing": False},
        {"packing": False, "token_budget": 400},
        {"gradient_checkpointing": True},
        {"deepspeed": {"zero_optimization": {"stage": 1}}, "token_budget": 1000},
        {"deepspeed": {"zero_optimization": {"stage": 2}}, "token_budget": 1000},
        {"deepspeed": {"zero_optimization": {"stage": 3}}, "token_budget": 1000},
    ],
    ids=str,
)
def test_how_the_work_is_done_changes_nothing(
    small: Path, stored: list[Path], plain: Steps, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert_same(train(small, stored[:2], tmp_path, **settings), plain)


def test_nor_for_a_model_whose_prompts_cannot_be_shared(
    small: Path, stored: list[Path], plain: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded by itself, packed with a mask where that is asked for."""
    assert plain.metrics[0]["shared_share"] > 0.2
    monkeypatch.setattr(policy_module, "share_prompts", lambda _: False)
    for packing in (None, True):
        steps = train(small, stored[:2], tmp_path / str(packing), packing=packing)
        assert steps.metrics[0]["shared_share"] == 0.0
        assert (steps.metrics[0]["padding_share"] > 0.0) == (packing is None)
        assert_same(steps, plain)


@pytest.mark.parametrize(
    "settings",
    [
        {"token_budget": 400},
        {"packing": False},
        {"deepspeed": {"zero_optimization": {"stage": 2}}},
        {"deepspeed": {"zero_optimization": {"stage": 3}}},
    ],
    ids=str,
)
def test_nor_with_reference_entropy_and_two_steps(
    small: Path, stored: list[Path], whole: Steps, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert whole.metrics[0]["optimizer_steps"] == 2
    found = train(small, stored[:2], tmp_path, WHOLE, mini_batch=4, **settings)
    assert_same(found, whole)


def test_the_order_of_rows_changes_nothing(
    small: Path, stored: list[Path], plain: Steps, tmp_path: Path
) -> None:
    shuffled = []
    for file in stored[:2]:
        table = tables.read("batch", file)
        order = np.random.default_rng(0).permutation(table.num_rows)
        shuffled.append(tables.write("batch", table.take(order), tmp_path / file.name))
    assert_same(train(small, shuffled, tmp_path), plain)


def with_advantages(table: pa.Table, advantages: list[float]) -> pa.Table:
    field = tables.TABLES["batch"].field("advantage")
    place = table.column_names.index("advantage")
    return table.set_column(place, field, pa.array(advantages, pa.float32()))


def test_rows_without_signal_are_left_out_of_the_work_only(
    small: Path, stored: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tokens count in the loss's mean; the other figures are of tokens that were computed."""
    table = tables.read("batch", stored[0])
    pairs = zip(table["prompt_id"].to_pylist(), table["advantage"].to_pylist(), strict=True)
    half = with_advantages(table, [0.0 if group < "004" else one for group, one in pairs])
    file = tables.write("batch", half, tmp_path / "batch.parquet")
    skipping = train(small, [file], tmp_path / "skipping")
    assert skipping.metrics[0]["rows_without_signal"] >= 28
    monkeypatch.setattr(trainer, "has_signal", lambda advantages, _: advantages == advantages)
    computing = train(small, [file], tmp_path / "computing")
    assert computing.metrics[0]["rows_without_signal"] == 0
    assert_same(Steps([], skipping.weights), Steps([], computing.weights))
    for name in ("loss", "grad_norm"):
        assert skipping.metrics[0][name] == pytest.approx(computing.metrics[0][name], rel=1e-5)


def test_without_any_signal_no_step_is_taken(
    small: Path, stored: list[Path], tmp_path: Path
) -> None:
    """Adam would move the weights by its momentum."""
    table = tables.read("batch", stored[1])
    silent = with_advantages(table, [0.0] * table.num_rows)
    tables.write("batch", silent, tmp_path / "batch.parquet")
    steps = train(small, [stored[0], tmp_path / "batch.parquet"], tmp_path)
    assert steps.metrics[1]["optimizer_steps"] == 0
    assert_same(Steps([], steps.weights[1:]), Steps([], steps.weights[:1]), 0.0)


# Ranks.


def on_rank(rank: int, port: int, small: Path, cases: list[Case], folder: Path) -> None:
    """One of two processes; both do all cases."""
    torch.set_num_threads(1)
    join(rank, 2, port)
    for number, (files, loss, settings) in enumerate(cases):
        # The last case: blocks of the small vocabulary, so that ZeRO-3 gathers the head again.
        logprobs.BLOCK_BYTES = 20_000 if number == len(cases) - 1 else 1 << 26
        steps = train(small, files, folder / str(number), loss, **settings)
        if rank == 0:
            torch.save((steps.metrics, steps.weights), folder / f"{number}.pt")
    dist.destroy_process_group()


def test_two_ranks_come_to_the_same(
    small: Path, stored: list[Path], plain: Steps, whole: Steps, tmp_path: Path
) -> None:
    """With every stage of ZeRO, several micro-batches a rank, padded, and a rank without a row."""
    table = tables.read("batch", stored[0])
    advantages = [0.0] * table.num_rows
    advantages[3] = 1.0
    lonely = tables.write("batch", with_advantages(table, advantages), tmp_path / "lonely.parquet")
    cases: list[Case] = []
    for stage in range(4):
        deepspeed = {"zero_optimization": {"stage": stage}}
        settings = {"deepspeed": deepspeed, "mini_batch": 4, "token_budget": 500}
        cases.append((stored[:2], WHOLE, settings))
    cases.append((stored[:2], PLAIN, {"packing": False}))
    cases.append(([lonely], PLAIN, {"deepspeed": {"zero_optimization": {"stage": 2}}}))
    cases.append((stored[:2], PLAIN, {"deepspeed": {"zero_optimization": {"stage": 3}}}))
    torch.multiprocessing.spawn(
        on_rank, (free_port(), small, cases, tmp_path), nprocs=2, start_method="spawn"
    )
    expected = [whole] * 4 + [plain, train(small, [lonely], tmp_path / "lonely"), plain]
    found = [
        Steps(*torch.load(tmp_path / f"{number}.pt", weights_only=True))
        for number in range(len(cases))
    ]
    for ours, theirs in zip(found[:-1], expected[:-1], strict=True):
        assert_same(ours, theirs)
    # Other sums of the softmax: other rounding where a gradient is 1e-8, in a weight or two.
    assert_same(Steps(found[-1].metrics, []), Steps(plain.metrics, []))
    for mine, yours in zip(found[-1].weights, plain.weights, strict=True):
        gaps = torch.cat([(mine[name] - yours[name]).flatten().abs() for name in yours])
        assert int((gaps > TOLERANCE).sum()) <= 10
        assert float(gaps.median()) <= 1e-9


def test_ranks_that_would_plan_differently_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, the other of which has flash attention: a stand-in for what it sends."""

    def gather(everyone: list[Any], mine: Layout) -> None:
        everyone[:] = [mine, other]

    monkeypatch.setattr(trainer.dist, "all_gather_object", gather)
    other = Layout.SHARED
    assert trainer._same_on_all(Layout.SHARED, 2) is Layout.SHARED
    other = Layout.PACKED
    with pytest.raises(ValueError, match=r"\(shared, packed\).*update.packing = false"):
        trainer._same_on_all(Layout.SHARED, 2)


# State.


def moments(trainer: Trainer) -> list[torch.Tensor]:
    """Adam's, wherever DeepSpeed keeps them."""
    optimizer = trainer.engine.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    return [
        value.clone()
        for state in inner.state.values()
        for name, value in sorted(state.items())
        if name.startswith("exp_avg")
    ]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_replay_from_a_saved_state_is_bit_for_bit(
    small: Path, stored: list[Path], tmp_path: Path, stage: int
) -> None:
    section = UpdateSection(
        **SETTINGS, warmup_iterations=5, deepspeed={"zero_optimization": {"stage": stage}}
    )

    def fresh() -> Trainer:
        return Trainer(small / "base", WHOLE, section, 1.0)

    through = fresh()
    expected = update(through, stored, tmp_path / "through")
    at_the_end = moments(through)
    assert [step["learning_rate"] for step in expected.metrics] == pytest.approx(
        [RATE * share for share in (0.2, 0.4, 0.6)]
    )
    # Adam's first step is as long as the learning rate.
    base = load_file(small / "base" / "model.safetensors")
    step = max(float((expected.weights[0][n] - base[n].float()).abs().max()) for n in base)
    assert step == pytest.approx(0.2 * RATE, rel=0.01)

    first = fresh()
    update(first, stored[:1], tmp_path / "first")
    state = tmp_path / "state"
    nowhere = {"folder": None, "replay": []}
    first.save({"out": str(state), "state_id": "state-1", "restore": nowhere})

    def third(trainer: Trainer, restore: dict[str, Any]) -> Steps:
        out = tmp_path / "third"
        job = {"parent": "state-2", "restore": restore, "batch": str(stored[2]), "iteration": 3}
        reply = trainer.update({**job, "state_id": "state-3", "out": str(out)})
        assert reply["replayed"] == [step["iteration"] for step in restore["replay"]]
        return Steps([reply["metrics"]], [load_file(out / "model" / "model.safetensors")])

    replay = [{"iteration": i + 1, "batch": str(stored[i])} for i in (0, 1)]
    second = fresh()
    ways = [
        (second, {"folder": str(state), "replay": replay[1:]}),  # a new process
        (second, {"folder": str(state), "replay": replay[1:]}),  # the step again: from its parent
        (fresh(), {"folder": None, "replay": replay}),  # no state was saved
    ]
    for trainer_, restore in ways:
        found = third(trainer_, restore)
        assert found.metrics == [pytest.approx(expected.metrics[2], rel=0, abs=0, nan_ok=True)]
        assert_same(Steps([], found.weights), Steps([], expected.weights[2:]), 0.0)
        for ours, theirs in zip(moments(trainer_), at_the_end, strict=True):
            assert torch.equal(ours, theirs)


def test_a_state_that_is_not_the_parent_is_refused(
    small: Path, stored: list[Path], plain: Steps, tmp_path: Path
) -> None:
    subject = Trainer(small / "base", PLAIN, UpdateSection(**SETTINGS), 1.0)
    with pytest.raises(ValueError, match="start from state elsewhere"):
        update(subject, stored[:1], tmp_path, parent="elsewhere")
    steps = update(subject, stored[:1], tmp_path)
    state = tmp_path / "state"
    restore = {"folder": None, "replay": []}
    subject.save({"out": str(state), "state_id": "state-1", "restore": restore})
    job = {"batch": str(stored[1]), "iteration": 2, "state_id": "state-2", "out": str(tmp_path)}
    with pytest.raises(ValueError, match="leads to state-1"):
        subject.update(
            {**job, "parent": "state-7", "restore": {"folder": str(state), "replay": []}}
        )
    # Nothing was stepped in vain.
    steps.metrics += update(subject, stored[1:2], tmp_path, "state-1", 2).metrics
    assert steps.metrics == [pytest.approx(one, rel=1e-6, nan_ok=True) for one in plain.metrics]

    other = UpdateSection(**SETTINGS, deepspeed={"zero_optimization": {"stage": 1}})
    restore = {"folder": str(state), "replay": []}
    with pytest.raises(ValueError, match="saved with zero_stage 0, this trainer has 1"):
        Trainer(small / "base", PLAIN, other, 1.0).save(
            {"out": str(tmp_path / "again"), "state_id": "state-1", "restore": restore}
        )
    next((state / "deepspeed").iterdir()).unlink()
    with pytest.raises(ValueError, match="is missing; remove the folder"):
        subject.save({"out": str(tmp_path / "again"), "state_id": "state-1", "restore": restore})


def test_rollouts_of_other_weights_are_refused_and_nothing_is_learned(
    small: Path, stored: list[Path], tmp_path: Path
) -> None:
    section = UpdateSection(**{**SETTINGS, "learning_rate": 1e-3, "max_logprob_gap": None})
    subject = Trainer(small / "base", PLAIN, section, 1.0)
    first = update(subject, stored[:1], tmp_path / "first")
    assert first.metrics[0]["engine_gap/mean"] < 1e-6
    # The second batch is the base model's too, and the weights have moved.
    with pytest.raises(ValueError, match="engine and trainer disagree"):
        update(subject, stored[1:2], tmp_path / "second", "state-1", 2)
    again = update(subject, stored[:1], tmp_path / "again")
    assert_same(Steps([], again.weights), Steps([], first.weights), 0.0)


def test_one_step_off_policy_the_gap_is_what_was_learned_since(
    small: Path, stored: list[Path], tmp_path: Path
) -> None:
    """As above, and no mistake: only the first iteration has nothing learned since."""
    section = UpdateSection(
        **{**SETTINGS, "learning_rate": 1e-3, "max_logprob_gap": None, "old_logprobs": "engine"}
    )
    subject = Trainer(small / "base", PLAIN, section, 1.0, off_policy_steps=1)
    update(subject, stored[:1], tmp_path / "first")
    with pytest.raises(ValueError, match="engine and trainer disagree"):
        update(subject, stored[1:2], tmp_path / "none", "state-1", 1)
    subject = Trainer(small / "base", PLAIN, section, 1.0, off_policy_steps=1)
    update(subject, stored[:1], tmp_path / "again")
    second = update(subject, stored[1:2], tmp_path / "second", "state-1", 2)
    assert second.metrics[0]["engine_gap/mean"] > 1e-4
    # The ratio is that of the weights now to those that sampled.
    assert second.metrics[0]["policy/approx_kl"] != 0
    assert abs(second.metrics[0]["policy/ratio"] - 1.0) > 1e-4


def test_a_loss_that_is_no_number_publishes_nothing(
    small: Path, stored: list[Path], tmp_path: Path
) -> None:
    table = tables.read("batch", stored[0])
    spoiled = with_advantages(table, [float("nan")] * table.num_rows)
    file = tables.write("batch", spoiled, tmp_path / "batch.parquet")
    with pytest.raises(FloatingPointError):
        train(small, [file], tmp_path)
    assert not (tmp_path / "it-1").exists()


# Weights.


def test_published_weights(small: Path, stored: list[Path], plain: Steps, tmp_path: Path) -> None:
    """A model folder like the base's; the probe says what its weights say, at temperature 1."""
    subject = Trainer(small / "base", PLAIN, UpdateSection(**SETTINGS), 0.7)
    update(subject, stored[:1], tmp_path)
    folder = tmp_path / "it-1" / "model"
    files = {path.name for path in (small / "base").iterdir()} - {"recipe.json"}
    assert {path.name for path in folder.iterdir()} == files | {"probe.parquet"}
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    rows = tables.read("probe", folder / "probe.parquet").to_pylist()
    assert len(rows) == 8
    for row in rows:
        ids = torch.tensor(row["token_ids"])
        logits = model(ids[None]).logits[0].log_softmax(-1)
        ours = logits[:-1].gather(1, ids[1:, None]).squeeze(1)
        assert torch.allclose(ours, torch.tensor(row["logprobs"]), atol=2e-6)


@pytest.mark.parametrize("stage", [0, 2])
def test_half_precision(small: Path, stored: list[Path], tmp_path: Path, stage: int) -> None:
    """Trains, publishes bfloat16, and moves as float32 does as far as it can tell."""
    settings = {"dtype": "bfloat16", "deepspeed": {"zero_optimization": {"stage": stage}}}
    half = train(small, stored[:2], tmp_path / "half", WHOLE, **settings)
    single = train(small, stored[:2], tmp_path / "single", WHOLE)
    assert {value.dtype for value in half.weights[0].values()} == {torch.bfloat16}
    for ours, theirs in zip(half.metrics, single.metrics, strict=True):
        for name in ("loss", "kl", "entropy", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=0.1, abs=0.02), name


def test_one_process_learns_on_where_another_stopped(
    small: Path,
    stored: list[Path],
    plain: Steps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The jobs that a run sends, through real processes."""
    monkeypatch.delenv("RANK")
    settings = {
        "model": str(small / "base"),
        "loss": PLAIN.model_dump(),
        "update": UpdateSection(**SETTINGS, threads=1).model_dump(),
        "temperature": 1.0,
        "off_policy_steps": 0,
    }
    weights = []
    for number, file in enumerate(stored[:2], 1):
        command = python_command(None, "icpo_core.trainer.process", settings)
        worker = Worker("trainer", command, tmp_path / "log", 120.0)
        ready = worker.wait_ready()
        assert ready == {"state_id": model_digest(small / "base"), "ranks": 1}
        folder, before = tmp_path / f"it-{number}", tmp_path / f"it-{number - 1}" / "state"
        job = {
            "job": "update",
            "iteration": number,
            "batch": str(file),
            "parent": f"state-{number - 1}" if number > 1 else ready["state_id"],
            "restore": {"folder": str(before) if number > 1 else None, "replay": []},
            "state_id": f"state-{number}",
            "out": str(folder),
        }
        assert worker.call(job, 60.0)["policy_version"] == model_digest(folder / "model")
        worker.call({**job, "job": "save", "out": str(folder / "state")}, 60.0)
        with pytest.raises(ValueError, match="no such file"):
            worker.call({**job, "parent": f"state-{number}", "batch": "nowhere.parquet"}, 60.0)
        worker.stop()
        weights.append(load_file(folder / "model" / "model.safetensors"))
    assert_same(Steps([], weights), Steps([], plain.weights))
