"""Files that name the machines of a trainer."""

from pathlib import Path

import pytest

from icpo_core.workers.launcher import slots


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
