"""`icpo eval`, `icpo probe` and `icpo report` as typed: mistakes are one line, history needs no
engine."""

import json
import shutil
from pathlib import Path

import pytest
from shown import make_run
from stub_engines import StubEngines

from icpo.flows.cli import main
from icpo_core.evaluation.evaluator import Evaluator


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(root, tmp_path_factory.mktemp("runs"), "icpo", 20, [1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "no/where"], "no such folder|neither a folder"),
        (["eval", "{base}"], "name what to evaluate on with --bench"),
        (["eval", "{base}", "{base}", "--bench", "{heldout}"], "stands twice"),
        (["eval", "{base}", "--bench", "math501"], "no such file or benchmark; there are aime2024"),
        (["eval", "{base}", "--bench", "{heldout}", "--protocol", "fast"], "or one of greedy"),
        (["eval", "{base}", "--bench", "{heldout}", "--samples", "0"], "sampling.samples"),
        (["eval", "{base}", "--bench", "{heldout}", "-o", "sampling.topp=1"], "did you mean top_p"),
        (["eval", "{run}@7"], "has no update yet"),
        (["eval", "{base}", "--history"], "no run here"),
        (["probe", "{base}"], "name a file with --problems"),
        (["probe", "{base}", "--problems", "{heldout}"], "name a file with --demonstrations"),
        (["probe", "{demo}", "--shots", "0"], "at least one of them above 0"),
        (["report", "no/where"], "no run here"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_mend(
    capsys, root, small, trained, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    places = {
        "base": small / "base", "heldout": small / "heldout.parquet",
        "run": trained, "demo": root / "configs" / "demo.toml",
    }  # fmt: skip
    status, _, err = run(capsys, *(word.format(**places) for word in words))
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert any(part in err for part in message.split("|")), err


def test_history_names_the_best_checkpoint(capsys, trained, tmp_path):
    status, out, _ = run(capsys, "eval", trained, "--history", "--json", "--out", tmp_path / "none")
    assert status == 0
    [rows] = json.loads(out).values()
    assert [row["iteration"] for row in rows] == list(range(0, 21, 2))
    [best] = [row for row in rows if row["best"]]
    assert best["accuracy"] == max(row["accuracy"] for row in rows)
    status, out, _ = run(
        capsys, "eval", trained, "--history", "--by", "pass@1", "--out", tmp_path / "none"
    )
    assert "best" in out
    assert "best checkpoints" not in out


def test_history_over_runs_shows_the_best_of_each(capsys, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    words = ["eval", trained, other, "--history", "--out", tmp_path / "none"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    lines = out[out.index("best checkpoints by accuracy") :]
    assert lines.count("heldout") == 2
    status, out, _ = run(capsys, *words, "--json")
    assert [sum(row["best"] for row in rows) for rows in json.loads(out).values()] == [1, 1]


def test_the_report_lies_in_its_run(capsys, trained):
    status, out, _ = run(capsys, "report", trained, "--json")
    assert status == 0
    found = json.loads(out)
    assert Path(found["report"]) == trained / "report.html"
    assert found["bytes"] == (trained / "report.html").stat().st_size


def test_judges_budgets_and_files_beside_the_table(capsys, small, tmp_path, monkeypatch):
    """Whole, with a stub engine; tests/engine has it with a real one."""
    engines = StubEngines(lambda asked, index: (asked["place"] + index) % 5)
    monkeypatch.setattr(Evaluator, "engines", lambda *_: engines)
    sums = tmp_path / "sums.jsonl"
    # A letter is judged without a process.
    rows = [
        {"id": str(at), "problem": "?", "options": ["1", "2"], "answer": "A"} for at in range(6)
    ]
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows))
    protocol = tmp_path / "raw.toml"
    protocol.write_text('[prompting]\nformat = "raw"\n[sampling]\nmax_tokens = 64\nsamples = 5\n')
    words = ["eval", small / "base", "--bench", sums, "--protocol", protocol, "--budgets", 2, 64]
    words += ["-o", "engine.max_model_len=512", "--out", tmp_path / "out"]
    status, out, err = run(capsys, *words, "--write", "lighteval", "lm-eval", "inspect", "--json")
    assert status == 0, err
    found = json.loads(out)["targets"][0]["benchmarks"]["sums"]
    assert found["accuracy"] == pytest.approx(5 / 30)  # six are right, and one of them is cut
    assert found["budgets"]["2"]["truncated"] > found["budgets"]["64"]["truncated"]
    assert found["budgets"]["64"]["accuracy"] == found["accuracy"]
    assert [Path(file).parent.name for file in found["files"]] == [
        "lighteval",
        "lm-eval",
        "inspect",
    ]
    assert all(Path(file).is_file() for file in found["files"])
    status, out, err = run(capsys, *words, "--write", "csv")
    assert (status, "choose of lighteval" in err) == (2, True)
    pushed(capsys, words, tmp_path / "out", found, monkeypatch)


def pushed(capsys, words, folder, found, monkeypatch):
    """The same results, found again, as tables of MLflow and W&B."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    status, _, err = run(capsys, *words, "--push", "mlflow", "wandb")
    assert status == 0, err
    assert len(list(folder.glob("mlflow/*/artifacts/*.json"))) == 2  # and nowhere else
    [told] = mlflow.search_runs(experiment_names=["icpo-eval"], output_format="list")
    assert told.data.metrics == {"accuracy/sums": pytest.approx(found["accuracy"])}
    [row] = mlflow.load_table("evaluations.json").to_dict("records")
    assert (row["benchmark"], row["samples"], row["problems"]) == ("sums", 5, 6)
    assert [row["low"], row["high"]] == pytest.approx(found["interval"])
    cuts = mlflow.load_table("budgets.json").to_dict("records")
    assert {cut["tokens"]: cut["accuracy"] for cut in cuts} == {
        int(budget): pytest.approx(cut["accuracy"]) for budget, cut in found["budgets"].items()
    }
    [files] = folder.glob("wandb/offline-run-*/files")
    [table] = files.glob("media/table/evaluations_*.table.json")
    kept = json.loads(table.read_text())
    assert kept["data"][0][kept["columns"].index("accuracy")] == pytest.approx(found["accuracy"])
    for board, words_of in (
        ("excel", "none of mlflow, wandb, trackio"),
        ("trackio", "pip install"),
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        status, _, err = run(capsys, *words, "--push", board)
        assert (status, words_of in err) == (2, True), err
