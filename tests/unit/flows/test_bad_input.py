"""What a person gets wrong ends in one line that names the mend, and exit status 2."""

import inspect
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from console_lines import without_waiting
from places import DEMO

from icpo.flows.cli import main
from icpo.flows.prefect_compat.settings import prepare_process
from icpo.flows.prefect_compat.terminal import ServerError, plain_errors


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error; nothing was written."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2
    line = without_waiting(capsys.readouterr().err).strip()
    assert line.startswith(f"icpo {words[0]}: ")
    assert "\n" not in line
    assert not Path("runs").exists()
    return line


def train(capsys: pytest.CaptureFixture[str], *changes: str) -> str:
    words = [word for change in changes for word in ("-o", change)]
    return refused(capsys, "train", str(DEMO), *words)


def test_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such folder; give a folder" in train(capsys, "model.path=./nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no model here" in train(capsys, f"model.path={empty}")


def test_problem_sets(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    table = pq.read_table(small / "demonstrations.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((small / "train.parquet").read_bytes()[:20_000])
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    pq.write_table(table.drop_columns(["answer"]), tmp_path / "column.parquet")
    pq.write_table(table.slice(0, 8), tmp_path / "few.parquet")
    bare = table.set_column(3, "solution", pa.nulls(len(table), pa.string()))
    pq.write_table(bare, tmp_path / "bare.parquet")
    assert "not a whole Parquet file" in train(capsys, "prompts.problems=./cut.parquet")
    assert "no such file" in train(capsys, "prompts.problems=./gone.parquet")
    assert "column 'answer' is missing" in train(capsys, "prompts.problems=./column.parquet")
    assert "batch_size = 16 is more than the 8" in train(capsys, "prompts.problems=./few.parquet")
    assert "has no rows" in train(capsys, "prompts.demonstrations=./empty.parquet")
    line = train(capsys, "prompts.demonstrations=./bare.parquet")
    assert "none of its rows has a solution" in line


def test_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such configuration file" in refused(capsys, "train", "nowhere.toml")
    assert "unknown key" in train(capsys, "rollout.experts=1")
    assert "write section.key=value" in train(capsys, "seed")


def test_runs_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run here" in refused(capsys, "plan", "elsewhere")
    line = refused(capsys, "plot", "elsewhere")
    assert "no figures here" in line


def test_a_stage_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stage = ["stage", "select", "runs/x", "--iteration"]
    assert "write section.key=value" in refused(capsys, *stage, "1", "-o", "foo", "--into", "b")
    assert "give a name without slashes" in refused(capsys, *stage, "1", "--into", "a/b")
    # In a process of its own: from here on it is Prefect's to refuse.
    words = [sys.executable, "-m", "icpo", *stage, "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=DEMO.parents[1])
    assert done.returncode == 2
    assert done.stderr == "icpo stage: --iteration: input should be greater than or equal to 1\n"


def test_a_folder_for_prefect_that_is_not_there_yet_and_one_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without one its embedded server fails at its database for as long as it is waited for."""
    environment = {"PREFECT_HOME": str(tmp_path / "not" / "there")}
    monkeypatch.setattr("os.environ", environment)
    prepare_process()
    assert (tmp_path / "not" / "there").is_dir()
    (tmp_path / "file").write_text("")
    environment["PREFECT_HOME"] = str(tmp_path / "file" / "home")
    with pytest.raises(ValueError, match=r"PREFECT_HOME=.*: Not a directory; set it to a folder"):
        prepare_process()
    environment["PREFECT_API_URL"] = "http://127.0.0.1:1/api"
    prepare_process()


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no prefect.yaml here" in refused(capsys, "up")
    Path("prefect.yaml").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused(capsys, "up", "--port", str(port))
    assert f"127.0.0.1:{port}: Address already in use; end what is there" in line
    assert not Path("prefect.toml").exists()
    assert not Path(".icpo").exists()


def test_an_embedded_server_that_does_not_start_is_one_line() -> None:
    from prefect.server.api.server import SubprocessASGIServer

    words = "Timed out while attempting to connect to ephemeral Prefect API server."
    assert words in inspect.getsource(SubprocessASGIServer.start)  # as this Prefect says it
    with pytest.raises(ServerError, match="`prefect server start` says why"), plain_errors():
        raise RuntimeError(words + " Ephemeral server process exited with code 3.")
