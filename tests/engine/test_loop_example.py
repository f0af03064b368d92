"""The method on one page (examples/loop.py) does what the product's loop does."""

import importlib.util
from pathlib import Path

from icpo_core.config import load
from icpo_core.run import loop
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import tables


def test_the_example_samples_and_selects_what_the_real_loop_does(
    root: Path, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("loop_example", root / "examples" / "loop.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    changes = [
        "run.iterations=2", "prompts.batch_size=4", "run.trackers=[]", "evaluate.every=2",
        f"run.directory={tmp_path}", "checkpoint.keep_last=2",
    ]  # fmt: skip
    config = load(root / "configs" / "demo.toml", changes, "real")

    accuracy = example.train(config, tmp_path / "example")

    run = Run.of(config)
    with Session(run) as session:
        loop.train(session)
    assert accuracy.keys() == {0, 2}
    for number, value in accuracy.items():
        done = run.store.finished("evaluate", number)
        assert done is not None
        assert done.facts["accuracy/heldout"] == value
    for number in (1, 2):
        ours = tables.read("batch", tmp_path / "example" / f"{number:04d}" / "batch.parquet")
        assert ours.equals(run.store.table("select", number, "batch"))
