"""What an evaluation is of, and letters judged without a process."""

import shutil
from pathlib import Path

import pytest

from icpo_core.evaluation.benchmarks import Benchmark, read
from icpo_core.evaluation.evaluator import Evaluator
from icpo_core.evaluation.protocol import Protocol
from icpo_core.evaluation.samples import letter_judges
from icpo_core.evaluation.target import Target
from icpo_core.grading.grade import GradingRules, Question, VerdictStatus
from icpo_core.run.evaluations import target


@pytest.fixture(scope="module")
def base(small: Path) -> Target:
    return target(str(small / "base"))


@pytest.fixture(scope="module")
def heldout(small: Path) -> Benchmark:
    return read("heldout", str(small / "heldout.parquet"))


def changed(protocol: Protocol, **sampling) -> Protocol:
    """The protocol with other sampling, also where the benchmark has its own."""
    own = protocol.sampling.model_copy(update=sampling)
    return protocol.model_copy(update={"sampling": own, "benchmarks": {}})


def test_letters_are_judged_without_a_process():
    with letter_judges(GradingRules()) as judges:
        found = judges.judge(
            [
                Question("B", r"So \boxed{B}."),
                Question("B", r"So \boxed{\text{(b) no, B}}."),
                Question("B", "The answer is (B)."),
                Question("B", "I cannot say."),
                Question("B", r"\boxed{C}"),
            ]
        )
        assert judges._nursery is None
    statuses = [one.status for one in found]
    assert statuses[0] == statuses[2] == VerdictStatus.correct
    assert statuses[3] == VerdictStatus.no_answer
    assert statuses[4] == VerdictStatus.wrong


def test_targets_name_the_mend(tmp_path, small):
    with pytest.raises(ValueError, match="no such folder"):
        target(str(tmp_path / "nothing here"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no model here"):
        target(str(tmp_path / "empty"))
    shutil.copytree(small / "base", tmp_path / "copy")
    assert target(str(tmp_path / "copy")).version == target(str(small / "base")).version


def test_another_seed_protocol_or_model_is_another_evaluation(small_protocol, base, heldout):
    def fingerprint(protocol: Protocol, who: Target = base) -> str:
        return Evaluator(Path("x"), protocol, lambda *_: None).work(who, heldout).fingerprint

    plain = fingerprint(small_protocol)
    assert plain == fingerprint(small_protocol)
    process = small_protocol.process.model_copy(update={"shard": 7, "seconds": 1.0})
    assert plain == fingerprint(small_protocol.model_copy(update={"process": process}))
    others = [
        fingerprint(changed(small_protocol, seed=1)),
        fingerprint(changed(small_protocol, temperature=0.5)),
        fingerprint(changed(small_protocol, samples=2)),
        fingerprint(changed(small_protocol, limit=10)),
        fingerprint(changed(small_protocol, top_k=50)),
        fingerprint(small_protocol, Target("x", base.folder, "another")),
    ]
    assert len({plain, *others}) == 7
