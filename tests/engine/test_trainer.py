"""The trainer on the small model: real DeepSpeed, one rank in this process and two in others."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from updates import (
    NOWHERE,
    PLAIN,
    RATE,
    SETTINGS,
    TOLERANCE,
    WHOLE,
    Case,
    Steps,
    assert_same,
    assert_same_weights,
    moments,
    on_rank,
    require_read_and_not_executed,
    train,
    update,
    written,
)

from icpo_core.common.files import model_digest, sha256_file
from icpo_core.config import UpdateSection
from icpo_core.store import tables
from icpo_core.trainer import microbatches, trainer
from icpo_core.trainer import policy as policy_module
from icpo_core.trainer.microbatches import Layout, collate, rows_of
from icpo_core.trainer.policy import load_policy
from icpo_core.trainer.process import make_deterministic
from icpo_core.trainer.trainer import Trainer
from icpo_core.workers.jobs import (
    Replay,
    Restore,
    Save,
    TrainerReady,
    TrainerSettings,
    Update,
)
from icpo_core.workers.launcher import free_port
from icpo_core.workers.process import Worker, python_command

pytestmark = pytest.mark.usefixtures("alone")


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
    # What the report colours tokens by: each expert row that has a part in the loss.
    expected = {
        row.group: logprobs_BT[place, : len(row.response_ids)].tolist()
        for place, row in enumerate(rows)
        if row.expert and row.advantage
    }
    assert len(expected) > 2
    assert list(plain.tokens[0]) == list(expected)
    for name, values in plain.tokens[0].items():
        assert values == pytest.approx(expected[name], abs=5e-6)
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
        shuffled.append(written(table.take(order), tmp_path / file.name))
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
    file = written(half, tmp_path / "batch.parquet")
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
    file = written(silent, tmp_path / "batch.parquet")
    steps = train(small, [stored[0], file], tmp_path)
    assert steps.metrics[1]["optimizer_steps"] == 0
    assert_same(Steps([], steps.weights[1:]), Steps([], steps.weights[:1]), 0.0)


def test_a_policy_loss_of_ones_own_is_loaded_once_and_held_to_its_source(
    small: Path, stored: list[Path], plain: Steps, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from icpo_core.method.policy_losses.ppo import ppo as mine\n")
    loss = PLAIN.model_copy(update={"policy": f"{file}:mine"})
    subject = Trainer(small / "base", loss, UpdateSection(**SETTINGS), 1.0)
    job = Update(
        iteration=1,
        batch=[stored[0]],
        parent=subject.base_version,
        restore=Restore(folder=None, replay=[]),
        state_id="state-1",
        policy_source=sha256_file(file),
        out=tmp_path / "it-1",
    )
    # The trainer has another one in memory than what is asked for now.
    for other in ("0" * 64, None):
        with pytest.raises(ValueError, match="was edited while the run was at work"):
            subject.update(job.model_copy(update={"policy_source": other}))
    file.write_text("")
    metrics = subject.update(job).metrics
    for name in ("loss", "grad_norm", "policy/ratio"):
        assert metrics[name] == plain.metrics[0][name]


# Ranks.


def test_two_ranks_come_to_the_same(
    small: Path, stored: list[Path], plain: Steps, whole: Steps, tmp_path: Path
) -> None:
    """With every stage of ZeRO, several micro-batches a rank, padded, and a rank without a row."""
    table = tables.read("batch", stored[0])
    advantages = [0.0] * table.num_rows
    advantages[3] = 1.0
    lonely = written(with_advantages(table, advantages), tmp_path / "lonely.parquet")
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

    monkeypatch.setattr(microbatches.dist, "all_gather_object", gather)
    other = Layout.SHARED
    assert microbatches.same_on_all(Layout.SHARED, 2) is Layout.SHARED
    other = Layout.PACKED
    with pytest.raises(ValueError, match=r"\(shared, packed\).*update.packing = false"):
        microbatches.same_on_all(Layout.SHARED, 2)


# State.


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
    first.save(Save(out=state, state_id="state-1", restore=NOWHERE))

    def third(trainer: Trainer, restore: Restore) -> Steps:
        out = tmp_path / "third"
        reply = trainer.update(
            Update(
                parent="state-2",
                restore=restore,
                batch=[stored[2]],
                iteration=3,
                state_id="state-3",
                out=out,
            )
        )
        assert reply.replayed == [step.iteration for step in restore.replay]
        return Steps([reply.metrics], [load_file(out / "model" / "model.safetensors")])

    replay = [Replay(iteration=i + 1, batch=[stored[i]]) for i in (0, 1)]
    second = fresh()
    ways = [
        (second, Restore(folder=state, replay=replay[1:])),  # a new process
        (second, Restore(folder=state, replay=replay[1:])),  # the step again: from its parent
        (fresh(), Restore(folder=None, replay=replay)),  # no state was saved
    ]
    for trainer_, restore in ways:
        found = third(trainer_, restore)
        assert found.metrics == [pytest.approx(expected.metrics[2], rel=0, abs=0, nan_ok=True)]
        assert_same(Steps([], found.weights), Steps([], expected.weights[2:]), 0.0)
        for ours, theirs in zip(moments(trainer_), at_the_end, strict=True):
            assert torch.equal(ours, theirs)


STATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ZeRO-2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "ZeRO-3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
    "LoRA": {"lora": {"rank": 4}},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.mark.parametrize("kind", STATES)
def test_a_saved_state_is_read_to_the_byte_and_nothing_in_it_is_executed(
    small: Path, stored: list[Path], tmp_path: Path, kind: str
) -> None:
    require_read_and_not_executed(small, stored, tmp_path, **STATES[kind])


def test_schedule_and_eps_reach_the_optimizer(
    small: Path, stored: list[Path], tmp_path: Path
) -> None:
    """Adam's first step is lr·g/(|g| + eps): of an eps far above every gradient little is left."""
    section = UpdateSection(**SETTINGS, schedule="linear", horizon=3, eps=1e3)
    steps = update(Trainer(small / "base", WHOLE, section, 1.0), stored, tmp_path)
    assert [step["learning_rate"] for step in steps.metrics] == pytest.approx(
        [RATE * share for share in (1, 2 / 3, 1 / 3)]
    )
    base = load_file(small / "base" / "model.safetensors")
    step = max(float((steps.weights[0][n] - base[n].float()).abs().max()) for n in base)
    assert step < 1e-2 * RATE


@pytest.mark.parametrize("stage", [0, 2])
def test_norms_do_not_decay_unless_asked(
    small: Path, stored: list[Path], tmp_path: Path, stage: int
) -> None:
    """Of a decay that takes all of a weight in one step a norm's scale shows nothing."""
    zero = {"zero_optimization": {"stage": stage}}
    decays = {"weight_decay": 1 / RATE, "deepspeed": zero}
    spared = train(small, stored[:1], tmp_path / "spared", **decays).weights[0]
    assert float(spared["model.norm.weight"].mean()) > 0.5
    assert float(spared["model.layers.0.mlp.up_proj.weight"].abs().max()) <= 1.01 * RATE
    asked = train(small, stored[:1], tmp_path / "asked", decay_norms=True, **decays).weights[0]
    assert float(asked["model.norm.weight"].abs().max()) <= 1.01 * RATE


def test_a_state_that_is_not_the_parent_is_refused(
    small: Path, stored: list[Path], plain: Steps, tmp_path: Path
) -> None:
    subject = Trainer(small / "base", PLAIN, UpdateSection(**SETTINGS), 1.0)
    with pytest.raises(ValueError, match="start from state elsewhere"):
        update(subject, stored[:1], tmp_path, parent="elsewhere")
    steps = update(subject, stored[:1], tmp_path)
    state = tmp_path / "state"
    subject.save(Save(out=state, state_id="state-1", restore=NOWHERE))
    saved = Restore(folder=state, replay=[])
    with pytest.raises(ValueError, match="leads to state-1"):
        subject.update(
            Update(
                batch=[stored[1]],
                iteration=2,
                parent="state-7",
                restore=saved,
                state_id="state-2",
                out=tmp_path,
            )
        )
    # Nothing was stepped in vain.
    steps.metrics += update(subject, stored[1:2], tmp_path, "state-1", 2).metrics
    assert steps.metrics == [pytest.approx(one, rel=1e-6, nan_ok=True) for one in plain.metrics]

    other = UpdateSection(**SETTINGS, deepspeed={"zero_optimization": {"stage": 1}})
    again = Save(out=tmp_path / "again", state_id="state-1", restore=saved)
    with pytest.raises(ValueError, match="saved with zero_stage 0, this trainer has 1"):
        Trainer(small / "base", PLAIN, other, 1.0).save(again)
    next((state / "deepspeed").iterdir()).unlink()
    with pytest.raises(ValueError, match="is missing; remove the folder"):
        subject.save(again)


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
    subject = Trainer(small / "base", PLAIN, section, 1.0, updates_behind=1)
    update(subject, stored[:1], tmp_path / "first")
    with pytest.raises(ValueError, match="engine and trainer disagree"):
        update(subject, stored[1:2], tmp_path / "none", "state-1", 1)
    subject = Trainer(small / "base", PLAIN, section, 1.0, updates_behind=1)
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
    file = written(spoiled, tmp_path / "batch.parquet")
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
    settings = TrainerSettings(
        model=small / "base",
        loss=PLAIN,
        update=UpdateSection(**SETTINGS, threads=1, deterministic=True),
        temperature=1.0,
        updates_behind=0,
    )
    weights = []
    for number, file in enumerate(stored[:2], 1):
        command = python_command(None, "icpo_core.trainer.process", settings)
        worker = Worker("trainer", command, tmp_path / "log", 120.0)
        ready = TrainerReady.model_validate(worker.wait_ready())
        assert ready == TrainerReady(state_id=model_digest(small / "base"), ranks=1)
        folder, before = tmp_path / f"it-{number}", tmp_path / f"it-{number - 1}" / "state"
        restore = Restore(folder=before if number > 1 else None, replay=[])
        job = Update(
            iteration=number,
            batch=[file],
            parent=f"state-{number - 1}" if number > 1 else ready.state_id,
            restore=restore,
            state_id=f"state-{number}",
            out=folder,
        )
        assert worker.call(job, 60.0).policy_version == model_digest(folder / "model")
        save = Save(out=folder / "state", state_id=f"state-{number}", restore=restore)
        worker.call(save, 60.0)
        nowhere = {"parent": f"state-{number}", "batch": [Path("nowhere.parquet")]}
        with pytest.raises(ValueError, match="no such file"):
            worker.call(job.model_copy(update=nowhere), 60.0)
        worker.stop()
        weights.append(load_file(folder / "model" / "model.safetensors"))
    assert_same(Steps([], weights), Steps([], plain.weights))


def test_deterministic_updates_give_the_same_digests(
    small: Path, stored: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all threads, and every operation in a form that PyTorch calls deterministic."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"):
        monkeypatch.delenv(name, raising=False)
    make_deterministic()
    try:
        assert torch.are_deterministic_algorithms_enabled()
        once, again = (train(small, stored[:2], tmp_path / name) for name in ("once", "again"))
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(once.weights, again.weights, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_step_of_fine_tuning_follows_those_of_rl(
    small: Path, stored: list[Path], plain: Steps, tmp_path: Path
) -> None:
    """ReLIFT: behind the update by the loss one step of cross-entropy, beside plain PyTorch with
    the same optimizer; a replay takes it too."""
    batch = tables.read("batch", stored[0])
    keys = ["prompt_id", "sample_index", "origin", "prompt_ids", "response_ids"]
    waited = [row | {"iteration": 1} for row in batch.select(keys).to_pylist()[:5]]
    file = tmp_path / "tuning.parquet"
    tables.write("tuning", tables.table("tuning", waited), file)
    section = UpdateSection(**{**SETTINGS, "token_budget": 400})
    subject = Trainer(small / "base", PLAIN, section, 1.0)
    first = Update(
        parent=subject.base_version, restore=NOWHERE, batch=[stored[0]], tuning=file,
        iteration=1, state_id="state-1", out=tmp_path / "one",
    )  # fmt: skip
    steps = subject.update(first)
    for name in ("loss", "grad_norm", "optimizer_steps"):  # those of RL
        assert steps.metrics[name] == pytest.approx(plain.metrics[0][name], rel=1e-5)
    assert steps.metrics["tuning/rows"] == 5

    policy = load_policy(small / "base", torch.float32, 1.0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)
    micro = collate(rows_of(batch), 0, torch.device("cpu"))
    logprobs_BT = micro.spread(policy(**micro.inputs, entropy=False)[0])
    ratio_BT = (logprobs_BT - logprobs_BT.detach()).exp()
    rho_BT = logprobs_BT.exp()
    gain_BT = torch.where(micro.expert_B[:, None], rho_BT / (rho_BT + 0.01), ratio_BT)
    gain_BT = gain_BT * micro.advantages_B[:, None] * micro.mask_BT
    (-gain_BT.sum() / micro.mask_BT.sum()).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    total, tokens = torch.zeros(()), 0
    for row in waited:
        prompt, response = row["prompt_ids"], row["response_ids"]
        hidden = policy.model.base_model(torch.tensor([prompt + response])).last_hidden_state[0]
        logits = hidden @ policy.model.get_input_embeddings().weight.T
        said = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        total = total - said.gather(1, torch.tensor(response)[:, None]).sum()
        tokens += len(response)
    (total / tokens).backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    assert steps.metrics["tuning/loss"] == pytest.approx(total.item() / tokens, rel=1e-4)
    assert steps.metrics["tuning/grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    by_hand = {name: value.detach() for name, value in policy.model.named_parameters()}
    weights = load_file(tmp_path / "one" / "model" / "model.safetensors")
    assert_same_weights(weights, by_hand, 3 * TOLERANCE)

    replay = [Replay(iteration=1, batch=[stored[0]], tuning=file)]
    second = first.model_copy(
        update={
            "parent": "state-1", "batch": [stored[1]], "tuning": None, "iteration": 2,
            "state_id": "state-2", "restore": Restore(folder=None, replay=replay),
        }
    )  # fmt: skip
    went_on = subject.update(second.model_copy(update={"out": tmp_path / "two"}))
    again = Trainer(small / "base", PLAIN, section, 1.0)
    came_back = again.update(second.model_copy(update={"out": tmp_path / "replayed"}))
    assert came_back.replayed == [1]
    assert came_back.policy_version == went_on.policy_version
