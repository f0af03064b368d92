"""The teacher of self-distillation: the small model and real DeepSpeed, beside plain PyTorch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import asked, lessons
from safetensors.torch import load_file, save_file
from updates import NOWHERE, RATE, SETTINGS, written

from icpo_core.common.files import sha256_file
from icpo_core.config import DistillSection, LossSection, UpdateSection
from icpo_core.store import tables
from icpo_core.trainer.policy import load_policy
from icpo_core.trainer.trainer import Trainer
from icpo_core.workers.jobs import Replay, Restore, Save, Update

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_teacher_speaks_and_is_learned_from(
    small: Path, stored: list[Path], tmp_path: Path, top_k: int
) -> None:
    """Self-distillation alone, beside plain PyTorch: what the start model says of each token behind
    another prompt, one backward of the reverse KL to it, AdamW."""
    batch = tables.read("batch", stored[0])[:24]  # three groups
    file = written(batch, tmp_path / "batch.parquet")
    wide, left_out = lessons(batch, tmp_path)
    distill = DistillSection(coefficient=2.0, teacher="start", top_k=top_k)
    loss = LossSection(kl="off", kl_coefficient=0.0, policy_coefficient=0.0, distill=distill)
    section = UpdateSection(**{**SETTINGS, "token_budget": 1000})
    subject = Trainer(small / "base", loss, section, 1.0)
    said = tmp_path / "said.parquet"
    reply = subject.teach(asked(tmp_path, said, None, top_k))
    taught = [
        row
        for row in batch.to_pylist()
        if row["origin"] == "on_policy" and row["prompt_id"] != left_out
    ]
    assert reply.rows == len(taught) > 10
    assert reply.sha256 == sha256_file(said)

    policy = load_policy(small / "base", torch.float32, 1.0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)

    def everything(prompt: list[int], response: list[int]) -> torch.Tensor:
        """Logprobs of the whole vocabulary at each token of the response."""
        hidden = policy.model.base_model(torch.tensor([prompt + response])).last_hidden_state[0]
        logits = hidden @ policy.model.get_input_embeddings().weight.T
        return logits.log_softmax(-1)[len(prompt) - 1 : -1]

    total = torch.zeros(())
    found = {
        (r["prompt_id"], r["sample_index"]): r for r in tables.read("teacher", said).to_pylist()
    }
    assert found.keys() == {(row["prompt_id"], row["sample_index"]) for row in taught}
    for row in taught:
        response = row["response_ids"]
        with torch.no_grad():
            theirs_TV = everything(wide[row["prompt_id"]], response)
        ours_TV = everything(row["prompt_ids"], response)
        sampled = torch.tensor(response)[:, None]
        one = found[row["prompt_id"], row["sample_index"]]
        assert one["logprobs"] == pytest.approx(
            theirs_TV.gather(1, sampled)[:, 0].tolist(), abs=1e-4
        )
        if not top_k:
            gap_T = (ours_TV - theirs_TV).gather(1, sampled)[:, 0]
            total = total + (gap_T.detach() * ours_TV.gather(1, sampled)[:, 0]).sum()
            assert one["top_ids"] == []
            continue
        top_TK = theirs_TV.topk(top_k, dim=-1)
        assert one["top_logprobs"] == pytest.approx(top_TK.values.flatten().tolist(), abs=1e-4)
        p, q = (logprobs.gather(1, top_TK.indices).exp() for logprobs in (ours_TV, theirs_TV))
        p, q = (
            torch.cat([part, (1 - part.sum(1, keepdim=True)).clamp_min(1e-6)], 1) for part in (p, q)
        )
        total = total + (p * (p / q).log()).sum()
    tokens = sum(len(row["response_ids"]) for row in batch.to_pylist())
    (2.0 * total / tokens).backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    steps = subject.update(
        Update(
            parent=subject.base_version, restore=NOWHERE, batch=[file], teacher=[said],
            iteration=1, state_id="state-1", out=tmp_path / "out",
        )
    )  # fmt: skip
    assert steps.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert steps.metrics["distill/share"] == pytest.approx(
        sum(len(row["response_ids"]) for row in taught)
        / sum(len(r["response_ids"]) for r in batch.to_pylist() if r["origin"] == "on_policy")
    )
    by_hand = {name: value.detach() for name, value in policy.model.named_parameters()}
    weights = load_file(tmp_path / "out" / "model" / "model.safetensors")
    # Here and there a gradient is as small as Adam's epsilon, and rounding shows.
    gaps = torch.cat([(weights[name] - by_hand[name]).flatten() for name in weights])
    assert float(gaps.square().mean().sqrt()) <= 2e-2 * RATE


def test_a_teacher_fades(small: Path, stored: list[Path], tmp_path: Path) -> None:
    """In the second of two iterations a weight that falls linearly is half of what it was, and in
    the third nothing is left of it: as runs that had just that weight at all times, to the bit."""
    batch = tables.read("batch", stored[0])[:16]
    lessons(batch, tmp_path)
    file, said = written(batch, tmp_path / "batch.parquet"), tmp_path / "said.parquet"
    fades = {"coefficient": 2.0, "teacher": "start", "schedule": "linear", "horizon": 2}
    versions = {}
    for name, distill, iteration in (
        ("1", fades, 1), ("2", fades, 2), ("3", fades, 3),
        ("whole", {"coefficient": 2.0, "teacher": "start"}, 1),
        ("half", {"coefficient": 1.0, "teacher": "start"}, 1), ("none", {}, 1),
    ):  # fmt: skip
        loss = LossSection(kl="off", kl_coefficient=0.0, distill=DistillSection(**distill))
        subject = Trainer(small / "base", loss, UpdateSection(**SETTINGS), 1.0)
        taught = name not in ("3", "none")
        if taught:
            subject.teach(asked(tmp_path, said, None))
        reply = subject.update(
            Update(
                parent=subject.base_version, restore=NOWHERE, batch=[file],
                teacher=[said] if taught else [], iteration=iteration, state_id=name,
                out=tmp_path / name,
            )
        )  # fmt: skip
        versions[name] = reply.policy_version
    assert versions["1"] == versions["whole"]
    assert versions["2"] == versions["half"]
    assert versions["3"] == versions["none"]
    assert len(set(versions.values())) == 3


WAYS: dict[str, dict[str, Any]] = {
    "ZeRO-3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
    "LoRA": {"lora": {"rank": 4}},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_teacher_is_the_policy_or_its_start_however_it_is_held(
    small: Path, stored: list[Path], tmp_path: Path, way: str
) -> None:
    """After an update: the policy is what was published, and the start is the base model."""
    batch = tables.read("batch", stored[0])[:16]
    lessons(batch, tmp_path)
    section = UpdateSection(**{**SETTINGS, "learning_rate": 1e-2, **WAYS[way]})
    distill = DistillSection(coefficient=1.0, teacher="start")
    loss = LossSection(kl="off", kl_coefficient=0.0, distill=distill)
    subject = Trainer(small / "base", loss, section, 1.0)
    start, policy = tmp_path / "start.parquet", tmp_path / "policy.parquet"
    subject.teach(asked(tmp_path, start, None))
    subject.update(
        Update(
            parent=subject.base_version, restore=NOWHERE, teacher=[start], iteration=1,
            batch=[written(batch, tmp_path / "batch.parquet")], state_id="1", out=tmp_path / "out",
        )
    )  # fmt: skip
    subject.teach(asked(tmp_path, policy, "1"))
    again = tmp_path / "again.parquet"
    subject.teach(asked(tmp_path, again, None))
    said = [logprobs(path) for path in (start, policy, again)]
    assert said[2] == pytest.approx(said[0], abs=1e-4)
    assert max(abs(a - b) for a, b in zip(said[0], said[1], strict=True)) > 0.05
    for path, model in ((start, small / "base"), (policy, tmp_path / "out" / "model")):
        told = tmp_path / f"{path.stem}-plain.parquet"
        plain = Trainer(model, loss, UpdateSection(**SETTINGS), 1.0)
        plain.teach(asked(tmp_path, told, None))
        assert logprobs(path) == pytest.approx(logprobs(told), abs=1e-4)


@pytest.mark.parametrize("lora", [0, 4])
def test_the_slow_average_teaches_and_comes_back(
    small: Path, stored: list[Path], tmp_path: Path, lora: int
) -> None:
    """After two updates it is decay · (decay · w0 + (1 − decay) · w1) + (1 − decay) · w2; a state
    holds it, a replay comes to it, and the policy is afterwards what it was."""
    batch = tables.read("batch", stored[0])[:16]
    lessons(batch, tmp_path)
    file = written(batch, tmp_path / "batch.parquet")
    more = {"learning_rate": 1e-2, "max_logprob_gap": 10.0, "lora": {"rank": lora}}
    section = UpdateSection(**{**SETTINGS, **more})
    distill = DistillSection(coefficient=1.0, teacher="average", decay=0.75)
    loss = LossSection(kl="off", kl_coefficient=0.0, distill=distill)
    subject = Trainer(small / "base", loss, section, 1.0)
    said = {name: tmp_path / f"{name}.parquet" for name in ("start", "held", "saved", "replayed")}
    subject.teach(asked(tmp_path, said["start"], subject.base_version))
    trained = {n: p for n, p in subject.engine.module.named_parameters() if p.requires_grad}
    weights = [{name: value.detach().clone() for name, value in trained.items()}]
    first = Update(
        parent=subject.base_version, restore=NOWHERE, teacher=[said["start"]], iteration=1,
        batch=[file], state_id="1", out=tmp_path / "one",
    )  # fmt: skip
    second = first.model_copy(
        update={"parent": "1", "iteration": 2, "state_id": "2", "out": tmp_path / "two"}
    )
    for number, job in enumerate((first, second), 1):
        subject.update(job)
        weights.append({name: value.detach().clone() for name, value in trained.items()})
        if number == 1:
            subject.save(Save(state_id="1", restore=NOWHERE, out=tmp_path / "state"))
    subject.teach(asked(tmp_path, said["held"], "2"))
    assert all(torch.equal(value, weights[2][name]) for name, value in trained.items())

    def replay(iteration: int) -> Replay:
        return Replay(iteration=iteration, batch=[file], teacher=[said["start"]])

    ways = {
        "saved": Restore(folder=tmp_path / "state", replay=[replay(2)]),
        "replayed": Restore(folder=None, replay=[replay(1), replay(2)]),
    }
    for name, restore in ways.items():
        again = Trainer(small / "base", loss, section, 1.0)
        job = asked(tmp_path, said[name], "2")
        again.teach(job.model_copy(update={"restore": restore}))
        assert logprobs(said[name]) == logprobs(said["held"])

    with torch.no_grad():
        for name, value in trained.items():
            zero, one, two = (step[name] for step in weights)
            value.copy_(0.75 * (0.75 * zero + 0.25 * one) + 0.25 * two)
    subject.average = None
    by_hand = tmp_path / "by-hand.parquet"
    subject.teach(asked(tmp_path, by_hand, "2"))
    assert logprobs(by_hand) == pytest.approx(logprobs(said["held"]), abs=1e-4)
    assert logprobs(by_hand) != pytest.approx(logprobs(said["start"]), abs=0.02)

    kept = tmp_path / "state" / "deepspeed" / "average.safetensors"
    whole = kept.read_bytes()
    save_file({"nobody": torch.zeros(2)}, tmp_path / "strange")
    strange = (tmp_path / "strange").read_bytes()
    for content, words in ((whole[:-9], "damaged"), (b"", "damaged"), (strange, "not of these")):
        kept.write_bytes(content)
        again = Trainer(small / "base", loss, section, 1.0)
        with pytest.raises(ValueError, match=rf"{words}.*remove its folder `state`"):
            again.teach(asked(tmp_path, by_hand, "2").model_copy(update={"restore": ways["saved"]}))
    kept.write_bytes(whole)

    other = distill.model_copy(update={"decay": 0.5})
    changed = Trainer(small / "base", loss.model_copy(update={"distill": other}), section, 1.0)
    with pytest.raises(ValueError, match=r"saved with average 0\.75, this trainer has 0\.5"):
        changed.teach(asked(tmp_path, by_hand, "2").model_copy(update={"restore": ways["saved"]}))


def logprobs(path: Path) -> list[float]:
    """Of all tokens, in the order of the rows."""
    rows = tables.read("teacher", path).to_pylist()
    rows.sort(key=lambda row: (row["prompt_id"], row["sample_index"]))
    return [value for row in rows for value in row["logprobs"]]
