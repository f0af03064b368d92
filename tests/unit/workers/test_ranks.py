"""Files that name the machines of a trainer."""

from pathlib import Path

import pytest

from icpo_core.config import load
from icpo_core.workers.jobs import TrainerSettings
from icpo_core.workers.launcher import launch, slots


def test_a_hostfile(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two machines\nworker-1 slots=8\n\nworker-2 slots=4 # half\n")
    assert slots(file) == {"worker-1": 8, "worker-2": 4}
    for text, words in (("worker-1 8", "slots=8"), ("a slots=1\na slots=1", "line 2"), ("", "no ")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            slots(file)
    with pytest.raises(ValueError, match="No such file"):
        slots(tmp_path / "gone")


def test_where_ranks_of_several_machines_meet_can_be_said(root: Path, tmp_path: Path) -> None:
    hosts, place = tmp_path / "hosts", "update.rendezvous=10.0.0.1:29500"
    demo = root / "configs" / "demo.toml"
    config = load(demo, [f"update.hostfile={hosts}", place])
    settings = TrainerSettings(
        model=tmp_path, loss=config.loss, update=config.update, temperature=1.0, updates_behind=0
    )
    command = launch(None, 2, hosts, tmp_path, settings, config.update.rendezvous)
    assert {"--master_addr=10.0.0.1", "--master_port=29500"} <= set(command)
    free = launch(None, 2, hosts, tmp_path, settings)
    assert not any(word.startswith("--master_addr") for word in free)
    with pytest.raises(ValueError, match=r"set update.hostfile too"):
        load(demo, [place])
    for junk in ("10.0.0.1", "10.0.0.1:0", "a b:1", "--x=1:2", ":29500"):
        with pytest.raises(ValueError, match=r"update.rendezvous"):
            load(demo, [f"update.hostfile={hosts}", f"update.rendezvous={junk}"])
