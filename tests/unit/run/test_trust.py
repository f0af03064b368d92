"""What a run's own files choose outside of it is followed only if this user chose it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import stubs

from icpo.flows.cli import main
from icpo_core.common import files
from icpo_core.run import branch, evaluations, trust
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths

PLANTED = [
    'rollout.python="/tmp/evil/python"',
    'update.python="/tmp/evil/python"',
    'update.hostfile="/tmp/evil/hosts"',
    'run.mirror="file:///tmp/evil"',
    'rollout.endpoints=["http://127.0.0.1:9"]',
    'verify.verifier="evil.py:reward"',
    "verify.trusted=true",
    'loss.policy="evil.py:loss"',
    'select.advantage="evil:advantage"',
    'rollout.engine.kind="evil:engine"',
    'update.deepspeed={tensorboard={enabled=true, output_path="/tmp/evil"}}',
    'verify.rewards=[{name="evil", verifier="evil.py:reward"}]',
]


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole run that another user made, in this user's hands."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
    run = Run.of(stubs.configuration(tmp_path / "folder"))
    with stubs.stubbed(run, tmp_path / "ledger") as session:
        stubs.train(session)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "ours"))
    return run.paths.root


def plant(root: Path, change: str) -> None:
    """Have the run's own files say so, as somebody can who can write them."""
    folder = root.parent.parent
    config = stubs.configuration(folder, "run", change)
    kept = config.model_dump(mode="json")
    for path in [RunPaths(root).config, *root.glob("logs/*/config.json")]:
        files.write_sealed(path, kept)


@pytest.mark.parametrize("change", PLANTED)
def test_what_a_run_of_somebody_else_chooses_is_not_followed(
    change: str, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(other, change)
    key = change.partition("=")[0]
    before = {path: path.stat().st_mtime_ns for path in other.rglob("*")}

    with pytest.raises(ValueError, match=r"icpo trust .*or name your own TOML") as refused:
        Run.named(other) and stubs.stubbed(Run.named(other), tmp_path / "l").__enter__()
    assert key in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="icpo trust"):
        branch.create(Run.read(other), "branched", "select", 2, ["select.alpha=2"])
    with pytest.raises(ValueError, match="icpo trust"):
        evaluations.of_run(Run.read(other), 3)
    assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == before

    # Looking into it asks nothing.
    for command in ("show", "plan", "check", "lineage"):
        with suppress(SystemExit):
            main([command, str(other)])
    assert "icpo trust" not in capsys.readouterr().err

    with pytest.raises(SystemExit, match="0"):
        main(["trust", str(other)])
    assert key in capsys.readouterr().out
    trust.require(Run.read(other))
    # Another value of the same key is another choice.
    assert trust.missing(Run.read(other)) == {}
    plant(other, change.replace("evil", "worse").replace(":9", ":8"))
    if change != "verify.trusted=true":
        assert list(trust.missing(Run.read(other))) != []


def test_a_run_of_ones_own_asks_nothing(tmp_path: Path) -> None:
    plain = Run.of(stubs.configuration(tmp_path / "folder"))
    chosen = stubs.configuration(tmp_path / "other", "run", f'run.mirror="file://{tmp_path}/m"')
    for run in (plain, Run.of(chosen)):
        with stubs.stubbed(run, tmp_path / "ledger") as session:
            stubs.train(session)
        root = run.paths.root
        trust.require(Run.read(root))
        with stubs.stubbed(Run.named(root), tmp_path / "ledger") as session:
            assert stubs.made(stubs.train(session)) == []
    # What the user says in its place is the user's.
    shutil.rmtree(root / "trusted.json", ignore_errors=True)
    (root / trust.NAME).unlink(missing_ok=True)
    assert list(trust.missing(Run.named(root))) == ["run.mirror"]
    assert trust.missing(Run.named(root, ['run.mirror=""'])) == {}
    assert trust.missing(Run.of(chosen)) == {}


@pytest.mark.parametrize("kind", ["fifo", "folder", "junk", "list"])
def test_seals_that_are_none_trust_nothing(kind: str, other: Path) -> None:
    plant(other, PLANTED[0])
    path = other / trust.NAME
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "junk":
            path.write_bytes(b"\xff{")
        case _:
            path.write_text('{"seals": [[1]]}')
    assert list(trust.missing(Run.read(other))) == ["rollout.python"]


def test_what_an_era_chooses_counts_whoever_names_the_configuration(
    other: Path, tmp_path: Path
) -> None:
    made = branch.create(Run.read(other), "branched", "select", 3, ["select.alpha=2"])
    record = files.read_sealed(made / "run.json")
    record["eras"][0]["config"]["update"]["python"] = "/tmp/evil/python"
    files.write_sealed(made / "run.json", record)
    mine = Run.of(stubs.configuration(tmp_path / "folder", "branched"), made)
    assert not mine.stored
    with pytest.raises(ValueError, match=r"update\.python"):
        trust.require(mine)
