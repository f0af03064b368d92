"""Checkpoints: what is kept and why, replay without sampling, and branches."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import stubs

from icpo_core.common import files
from icpo_core.config import override
from icpo_core.run import branch, checkpoints, integrity, metrics, perform, plan, retention
from icpo_core.run.run import Run
from icpo_core.run.session import Observer, Session
from icpo_core.store import tables
from icpo_core.store.paths import RunPaths
from icpo_core.store.work import Standing
from icpo_core.views import lineage

LONG = ["run.iterations=8", "prompts.batch_size=2", "evaluate.every=2", "checkpoint.keep_last=8"]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight iterations that kept everything; states after every second."""
    folder = tmp_path_factory.mktemp("long")
    run = Run.of(stubs.configuration(folder, "run", *LONG))
    with stubs.stubbed(run, folder / "ledger") as session:
        stubs.train(session)
    return folder


@pytest.fixture
def folder(long: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", f"{long}/.", str(tmp_path)], check=True)
    (tmp_path / "ledger").unlink()
    return tmp_path


def opened(folder: Path, *changes: str) -> Run:
    root = folder / "runs" / "run"
    return Run.of(override(Run.read(root).config, list(changes)), root)


def settled(run: Run) -> None:
    """What nobody has open is put in order as it is when it is next opened."""
    checkpoints.settle(Session(run))


def kept(run: Run) -> tuple[set[int], set[int]]:
    """Iterations whose weights are there, and whose state is."""
    numbers = range(1, 9)
    weights = {n for n in numbers if (run.paths.stage("checkpoint", n) / "model").is_dir()}
    there = {n for n in numbers if (run.paths.stage("update", n) / "model").is_dir()}
    assert weights == there
    states = {n for n in numbers if (run.paths.stage("checkpoint", n) / "state").is_dir()}
    return weights, states


def ledger(folder: Path, kind: str) -> list[str]:
    path = folder / "ledger"
    found = path.read_text().splitlines() if path.is_file() else []
    return [line.partition(" ")[2] for line in found if line.startswith(kind)]


# --- retention ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "weights", "states"),
    [
        ({"keep_last": 1}, {8}, {8}),
        ({"keep_last": 3}, {6, 7, 8}, {6, 8}),
        ({"keep_last": 1, "keep_every": 3}, {3, 6, 8}, {8}),
        ({"keep_last": 2, "keep_every": 4}, {4, 7, 8}, {8}),
        ({"keep_last": 100}, {1, 2, 3, 4, 5, 6, 7, 8}, {2, 4, 6, 8}),
    ],
)
def test_retention_keeps_the_last_and_every_so_many(
    settings: dict[str, int], weights: set[int], states: set[int], folder: Path
) -> None:
    run = opened(folder, *(f"checkpoint.{key}={value}" for key, value in settings.items()))
    settled(run)
    assert kept(run) == (weights, states)
    assert os.readlink(run.paths.latest) == "it-0008/checkpoint"
    assert integrity.check(run.paths) == []
    assert all(step.status.done for step in plan.plan(run))


def test_the_best_by_a_score_is_kept(folder: Path) -> None:
    run = opened(folder, "checkpoint.keep_last=1", "checkpoint.keep_best=heldout")
    scores = {
        number: found.facts["accuracy/heldout"]
        for number in range(1, 9)
        if (found := run.store.manifest("evaluate", number)) is not None
    }
    best = max(scores, key=lambda number: (scores[number], number))
    assert retention.best_iteration(run, list(range(1, 9))) == best
    settled(run)
    assert kept(run)[0] == {best, 8}


def test_what_is_protected_or_begun_from_never_goes(folder: Path) -> None:
    run = opened(folder, "checkpoint.keep_last=1")
    retention.protect(run.paths, {2, 3})
    # Another run beside this one begins from the weights of iteration 5.
    model = run.paths.stage("checkpoint", 5) / "model"
    shutil.copy(stubs.SMALL / "base" / "tokenizer_config.json", model)
    other = Run.of(stubs.configuration(folder, "other", f"model.path={model}"))
    with stubs.stubbed(other):
        pass
    settled(run)
    weights, states = kept(run)
    assert weights == {2, 3, 5, 8}
    assert states == {2, 8}  # a protected checkpoint keeps its state too
    reasons = {one.iteration: one.weights for one in retention.holdings(run) if one.weights}
    assert reasons == {
        2: ["protected"], 3: ["protected"], 5: ["other begins from it"], 8: ["newest"],
    }  # fmt: skip


def test_a_damaged_list_of_the_protected_keeps_everything(folder: Path) -> None:
    run = opened(folder, "checkpoint.keep_last=1")
    retention.protect(run.paths, {2})
    data = run.paths.protected.read_bytes()
    run.paths.protected.write_bytes(data.replace(b"2", b"3", 1))
    settled(run)
    assert kept(run)[0] == set(range(1, 9))
    assert [one.file for one in integrity.check(run.paths)] == [run.paths.protected]


def test_a_dry_run_says_just_what_will_be_freed(folder: Path) -> None:
    run = opened(folder, "checkpoint.keep_last=2")
    removals = retention.removals(run, retention.holdings(run))
    foretold = retention.freed(run.paths, removals)
    before, there = used(folder), kept(run)
    assert kept(run) == there
    run.store.prune(removals)
    added = sum(
        run.paths.pruned(stage, number).stat().st_size
        for stage in ("update", "checkpoint")
        for number in range(1, 9)
        if run.paths.pruned(stage, number).is_file()
    )
    assert foretold == before - used(folder) + added
    assert foretold > 0


def test_what_a_branch_shares_frees_nothing(folder: Path) -> None:
    run = opened(folder, "checkpoint.keep_last=1")
    alone = retention.freed(run.paths, retention.removals(run, retention.holdings(run)))
    branch.create(run, "side", "select", 8, ["select.errs=off"])
    shared = retention.freed(run.paths, retention.removals(run, retention.holdings(run)))
    assert shared < alone / 10  # the newest iterations' are not the branch's


def used(folder: Path) -> int:
    """Bytes of all files, each once however many links it has."""
    sizes = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            sizes[facts.st_ino] = facts.st_size
    return sum(sizes.values())


def test_nothing_goes_before_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one checkpoint to keep there is always a whole one, and `LATEST` leads to it."""
    run = Run.of(stubs.configuration(tmp_path, "run", "run.iterations=4", "evaluate.every=0"))
    seen = []

    def look(mark: str) -> None:
        if run.paths.latest.is_symlink():
            folder = run.paths.latest / "model"
            assert (run.paths.latest / "manifest.json").is_file()
            seen.append(files.model_digest(folder))

    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path, **more: (look(""), unlink(path, **more))[1])
    with stubs.stubbed(run, hook=look) as session:
        stubs.train(session, on_stage=look)
    assert len(set(seen)) == 4


def test_latest_never_leads_to_a_checkpoint_that_is_being_made_again(folder: Path) -> None:
    run = opened(folder)
    seen = []

    def look(mark: str) -> None:
        seen.append(os.readlink(run.paths.latest))

    with stubs.stubbed(run, hook=look) as session:
        perform.perform(session, "checkpoint", 8, force=True)
        assert set(seen) == {"it-0007/checkpoint"}
        checkpoints.settle(session)
    assert os.readlink(run.paths.latest) == "it-0008/checkpoint"


# --- states and replay --------------------------------------------------------------------------


def test_a_run_goes_on_from_the_last_state_and_replays_what_came_after(
    folder: Path, tmp_path: Path
) -> None:
    """States after 4 and 8 only: a trainer that comes anew in iteration 8 replays 5 to 7."""
    fresh = tmp_path / "fresh"
    shutil.copytree(folder / "data", fresh / "data")
    changes = [*LONG, "checkpoint.state_every=4"]
    reference = Run.of(stubs.configuration(fresh, "run", *changes))
    with stubs.stubbed(reference) as session:
        stubs.train(session)
    shutil.rmtree(reference.paths.stage("update", 8))
    shutil.rmtree(reference.paths.stage("checkpoint", 8))
    again = Run.of(stubs.configuration(fresh, "run", *changes))
    with stubs.stubbed(again, fresh / "ledger") as session:
        made = stubs.made(stubs.train(session))
    assert made == ["it-0008/update", "it-0008/checkpoint"]
    assert ledger(fresh, "replay") == ["5", "6", "7"]
    assert ledger(fresh, "step") == ["8"]
    assert ledger(fresh, "sample") == []
    found = again.store.manifest("update", 8)
    assert found is not None
    assert found.facts["replayed"] == [5, 6, 7]
    # How often states are saved changes no weights: those of the run that saved every second.
    ours, theirs = stubs.digests(again.paths.root), stubs.digests(folder / "runs" / "run")
    assert ours["weights"] == theirs["weights"]


class Listening(Observer):
    """Takes down what is decided."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def decision(self, line: str) -> None:
        self.said.append(line)


def test_a_damaged_state_is_passed_over_for_an_older_one(folder: Path) -> None:
    run = opened(folder)
    shutil.rmtree(run.paths.stage("update", 7))
    state = run.paths.stage("checkpoint", 6) / "state" / "deepspeed" / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    observer = Listening()
    before = stubs.digests(folder / "runs" / "run")
    before.pop("it-0007/update", None)
    with stubs.stubbed(run, folder / "ledger", observer=observer) as session:
        perform.perform(session, "update", 7)
    assert ledger(folder, "replay") == ["5", "6"]  # from the state after 4
    assert any(line.startswith("state of iteration 6 passed over") for line in observer.said)
    # It was marked, and comes back when the run goes on.
    with stubs.stubbed(opened(folder), folder / "ledger") as session:
        assert stubs.made(stubs.train(session)) == ["it-0006/checkpoint"]
    after = stubs.digests(folder / "runs" / "run")
    assert {key: after[key] for key in before} == before


def test_a_batch_that_was_replaced_is_not_replayed(folder: Path) -> None:
    """`select` made again in place with other results, after the update: the weights of that update
    cannot be come to again, and pretending so would be silent damage."""
    run = opened(folder)
    path = run.paths.stage("select", 7) / "batch-00000-of-00002.parquet"
    batch = tables.read("batch", path)
    with stubs.stubbed(run) as session:
        work = plan.work(run, "select", 7)
        run.store.begin(work, afresh=True)
        tables.write("batch", batch[:-1], path, work.fingerprint)
        run.store.commit(work, 0.0, 0.0, {})
        with pytest.raises(ValueError, match="another batch than the one that update 7") as caught:
            checkpoints.restore(session, 7, 8)
    assert "icpo stage update" in str(caught.value)


# --- branches -----------------------------------------------------------------------------------


def links(paths: RunPaths, other: RunPaths, place: str) -> bool:
    """Whether two runs have the same files of a stage, not copies."""
    ours = sorted((paths.root / place).glob("*.parquet"))
    return bool(ours) and all(path.samefile(other.root / place / path.name) for path in ours)


def in_branch(folder: Path, name: str, stage: str, iteration: int, *changes: str) -> Run:
    source = Run.read(folder / "runs" / "run")
    run = branch.run_for(source.paths.root, stage, iteration, list(changes), name, force=False)
    with stubs.stubbed(run, folder / "ledger") as session:
        perform.perform(session, stage, iteration)
        checkpoints.settle(session)
    return Run.read(run.paths.root)


def snapshot(root: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_ino, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("verify", "verify.rules.extraction=boxed_or_last"),
        ("select", "select.errs=replace"),
        ("select", "select.bonus=linear"),
        ("update", "loss.expert_lambda=0.1"),
        ("update", "update.learning_rate=0.01"),
        ("rollout", "rollout.temperature=0.5"),
        ("evaluate", "evaluate.temperature=0.5"),
    ],
)
def test_a_stage_made_again_in_a_branch_shares_the_rest_and_leaves_the_run_alone(
    stage: str, change: str, folder: Path
) -> None:
    original = RunPaths(folder / "runs" / "run")
    before = snapshot(original.root)
    run = in_branch(folder, "side", stage, 6, change)
    assert snapshot(original.root) == before
    for number in range(1, 6):
        assert links(run.paths, original, run.paths.place("rollout", number))
    shared = ("prompts", "rollout", "verify", "select")
    for each in shared[: shared.index(stage) if stage in shared else 4]:
        assert links(run.paths, original, f"it-0006/{each}")
    found = run.store.manifest(stage, 6)
    assert found is not None
    key, _, value = change.partition("=")
    assert str(dict(flat(found.config))[key]) == value
    assert not run.paths.iteration(7).exists()
    # What was shared stays what it is, though this run's configuration is another.
    for step in plan.plan(run, last=5):
        assert step.status.done, (step.stage, step.iteration, step.status.reason)
    # With its evaluation made again the sixth is whole; otherwise it waits for its update.
    whole = 6 if stage == "evaluate" else 5
    assert [row["iteration"] for row in metrics.read(run.paths)] == list(range(whole + 1))
    assert lineage.origins(run.paths)[0]["changes"] == [change]
    assert integrity.check(run.paths) == []


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("verify", "verify.verifier=choice"),
        ("select", "select.errs=off"),
        ("update", "update.learning_rate=0.01"),
        ("rollout", "rollout.temperature=0.5"),
    ],
)
def test_the_past_is_made_again_from_what_is_stored_of_it(
    stage: str, change: str, folder: Path
) -> None:
    original = RunPaths(folder / "runs" / "run")
    before = snapshot(original.root)
    run = branch.run_for(original.root, stage, 2, [change], "again", False, last=5)
    with stubs.stubbed(run, folder / "ledger") as session:
        for number in range(2, 6):
            assert perform.perform(session, stage, number).made
        checkpoints.settle(session)
    assert snapshot(original.root) == before
    run = Run.read(run.paths.root)
    source = Run.read(original.root)
    for number in range(2, 6):
        now, was = (one.store.manifest(stage, number) for one in (run, source))
        assert now is not None
        assert was is not None
        assert now.fingerprint != was.fingerprint
        # The very rollouts of the time, although another policy would sample others now.
        for each in plan.before(run, stage, number):
            assert links(run.paths, original, f"it-{number:04d}/{each}")
    assert not run.paths.iteration(6).exists()
    assert integrity.check(run.paths) == []
    # Training from there begins with what the stage changes.
    with stubs.stubbed(run, folder / "ledger") as session:
        made = stubs.made(stubs.train(session, rerun=True))
    assert not [one for one in made if one.startswith("it-0001")]
    assert f"it-0002/{stage}" not in made
    assert "it-0002/checkpoint" in made
    assert integrity.check(run.paths) == []


def flat(part: dict, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in part.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def test_a_branch_may_sample_one_step_off_policy(folder: Path) -> None:
    """Its first iterations ask the trainer of the run before for weights and a state that are not
    there: nothing is sampled beside that, but from then on."""
    run = opened(folder, "checkpoint.keep_last=1")
    with stubs.stubbed(run) as session:
        session.keep_config()
        checkpoints.settle(session)
    assert not run.has_weights(4)
    changes = ["rollout.off_policy_steps=1", "update.old_logprobs=engine"]
    changes += ["checkpoint.keep_last=8"]
    run = in_branch(folder, "side", "rollout", 6, *changes)
    with stubs.stubbed(run, folder / "ledger") as session:
        assert [perform.samples_ahead(session, number) for number in (5, 6)] == [False, False]
        stubs.train(session)
        assert perform.samples_ahead(session, 7)
        for number in (6, 7, 8):
            sampled = run.store.finished("update", number - 2)
            assert sampled is not None
            rows = run.store.table("rollout", number, "rollout")
            assert set(rows["policy_version"].to_pylist()) == {sampled.policy_version}
    assert integrity.check(run.paths) == []


def test_a_branch_goes_on_by_itself_and_samples_nothing_that_is_shared(folder: Path) -> None:
    run = in_branch(folder, "side", "select", 6, "select.errs=off")
    assert ledger(folder, "sample") == []
    rest = Run.named(run.paths.root)
    assert rest.config.select.errs == "off"
    with stubs.stubbed(rest, folder / "ledger") as session:
        made = stubs.made(stubs.train(session))
    assert made[:3] == ["it-0006/update", "it-0006/evaluate", "it-0006/checkpoint"]
    assert made[-1] == "it-0008/checkpoint"
    ours = stubs.digests(run.paths.root)
    theirs = stubs.digests(folder / "runs" / "run")
    same = {place for place in ours if ours[place] == theirs.get(place)}
    assert {f"it-{n:04d}/{s}" for n in range(1, 6) for s in ("rollout", "update")} <= same
    assert "it-0006/rollout" in same
    assert "it-0006/select" not in same
    # And in a branch of the branch.
    second = branch.create(rest, "further", "update", 7, ["update.learning_rate=0.01"])
    assert [era.last for era in Run.read(second).eras] == [5, 6]
    assert all(step.status.done for step in plan.plan(Run.read(second), last=6))


def test_a_branch_comes_to_its_state_with_the_settings_of_the_run_it_leaves(folder: Path) -> None:
    """Branching where no state was saved: the batches before are replayed by a trainer with the
    old learning rate, not the branch's."""
    run = in_branch(folder, "side", "update", 6, "update.learning_rate=0.05")
    # A state after 5 was not saved; it is now, in the branch, from the one after 4.
    assert ledger(folder, "replay") == ["5"]
    assert (run.paths.stage("checkpoint", 5) / "state" / "state.json").is_file()
    assert not (folder / "runs" / "run" / "it-0005" / "checkpoint" / "state").exists()
    ours, theirs = stubs.digests_of(run), stubs.digests_of(opened(folder))
    assert ours["it-0005/update"] == theirs["it-0005/update"]
    # The same by hand: state after 5 from the run's own trainer, one step with the new rate.
    hand = folder / "hand"
    shutil.copytree(folder / "data", hand / "data")
    changes = [*LONG, "checkpoint.state_every=1"]
    first = Run.of(stubs.configuration(hand, "run", *changes))
    with stubs.stubbed(first) as session:
        stubs.train(session)
    other = in_branch(hand, "side", "update", 6, "update.learning_rate=0.05")
    assert ledger(hand, "replay") == []
    assert stubs.digests_of(other)["it-0006/update"] == ours["it-0006/update"]


def test_a_damaged_shared_iteration_is_made_again_as_it_was(folder: Path) -> None:
    run = in_branch(folder, "side", "select", 6, "select.errs=off", "rollout.temperature=1.0")
    path = run.paths.stage("rollout", 3) / "part-00000-of-00002.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # the branch's own copy now: the run's is whole
    path.write_bytes(data)
    assert [one.file for one in integrity.check(run.paths)] == [path]
    rest = Run.named(run.paths.root)
    with stubs.stubbed(rest) as session:
        made = stubs.made(stubs.train(session))
    assert made[0] == "it-0003/rollout"
    assert made[1] == "it-0006/update"
    assert path.read_bytes() == (folder / "runs/run/it-0003/rollout" / path.name).read_bytes()


def test_a_branch_is_made_whole_or_not_at_all_and_only_once(folder: Path) -> None:
    source = Run.read(folder / "runs" / "run")
    torn = source.paths.root.parent / "side.partial"
    torn.mkdir()
    (torn / "config.json").write_text("{")
    first = branch.create(source, "side", "select", 6, ["select.errs=off"])
    before = snapshot(first)
    assert not torn.exists()
    assert branch.create(source, "side", "select", 6, ["select.errs=off"]) == first
    assert snapshot(first) == before
    for name, change, words in (
        ("side", "select.errs=mask", "is there already, a branch of .* with other changes"),
        ("run", "select.errs=mask", "is there already, a run of its own"),
        ("other", "rollout.temperature=0.5", r"select reads rollout, .*temperature 1.0 -> 0.5"),
        ("no/name", "select.errs=mask", "run.name"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            branch.create(source, name, "select", 6, [change])
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="needs prompts, which is missing"):
        branch.create(source, "late", "select", 9, ["select.errs=mask"])
    assert not (source.paths.root.parent / "other").exists()


def test_in_the_run_itself_nothing_is_replaced_by_something_else(folder: Path) -> None:
    root = folder / "runs" / "run"
    config = (root / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"-o select.alpha=2: gives other results .* --into NAME"):
        branch.run_for(root, "select", 6, ["select.alpha=2"], None, force=True)
    run = branch.run_for(root, "verify", 6, ["verify.workers=1"], None, force=True)
    with stubs.stubbed(run) as session:
        assert perform.perform(session, "verify", 6, force=True).made
    assert (root / "config.json").read_bytes() == config
    # Made from other data: replaced only if told so.
    other = folder / "other.parquet"
    problems = tables.read("problems", Path(run.config.prompts.problems))
    tables.write("problems", problems[:-2], other)
    stored = files.read_sealed(root / "config.json")
    stored["prompts"]["problems"] = str(other)
    files.write_sealed(root / "config.json", stored)
    with pytest.raises(ValueError, match=r"input prompts.problems changed.*--force .*--into NAME"):
        branch.run_for(root, "prompts", 6, [], None, force=False)
    again = branch.run_for(root, "prompts", 6, [], None, force=True)
    assert plan.status(again, "prompts", 6).standing is Standing.STALE


def test_a_refused_run_keeps_its_configuration(folder: Path) -> None:
    root = folder / "runs" / "run"
    before = (root / "config.json").read_bytes()
    run = Run.of(stubs.configuration(folder, "run", *LONG, "select.alpha=3"))
    refusal = pytest.raises(ValueError, match=r"select.alpha 1.0 -> 3.0.*--rerun")
    with stubs.stubbed(run) as session, refusal:
        stubs.train(session)
    assert (root / "config.json").read_bytes() == before
