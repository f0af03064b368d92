"""A run's model for others: card, digests, contamination, licence; what goes to the hub."""

import json
import shutil
import tarfile
from pathlib import Path

import huggingface_hub
import pyarrow.parquet as pq
import pytest
from places import TESTS

from icpo.flows.cli import main
from icpo_core.common.files import model_digest, sha256_file
from icpo_core.run.run import Run
from icpo_core.views import export, model_card
from icpo_core.views.model_card import contamination, recorded


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run after iteration 2 of 3, in whose folder one stands; its base is its own model."""
    with tarfile.open(TESTS / "data" / "run-9696e7e.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    root = Path("runs/run")
    shutil.copytree(root / "it-0002" / "update" / "model", "base")
    return root


def icpo(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_run_s_model_is_a_folder_with_a_card(stored, tmp_path, capsys):
    words = ["push-model", stored, tmp_path / "out", "--licence", "apache-2.0", "--json"]
    status, out, err = icpo(capsys, *words)
    assert status == 0, err
    found = json.loads(out)
    assert found["iteration"] == 2
    assert found["files"] == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    run = Run.read(stored)
    assert model_digest(tmp_path / "out") == run.policy(2).version
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    [result] = card.data.eval_results
    assert (result.dataset_name, result.metric_name) == ("heldout", "avg@1, training")
    scores = json.loads((stored / "it-0002/evaluate/scores.json").read_text())["heldout"]
    assert result.metric_value == round(100 * scores["accuracy"], 2)
    low, high = scores["interval"]
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in card.text
    for key, digest in recorded(run).items():
        assert f"| `{key}` |" in card.text
        assert f"`{digest}`" in card.text
    assert run.policy(2).version in card.text
    assert "9696e7e08175d85ddfd69a493cd275eea527ace5" in card.text
    assert str(tmp_path) not in card.text
    assert "batch_size" in card.text
    # It is not written over what is there.
    status, _, err = icpo(capsys, *words)
    assert status == 2
    assert "is there and not empty" in err
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_benchmark_shares_with_the_data_is_named(stored):
    run = Run.read(stored)
    digests = recorded(run)
    clean = contamination(run.config, digests)
    assert {(one.benchmark, one.data) for one in clean} == {
        ("heldout", "prompts.problems"), ("heldout", "prompts.demonstrations"),
    }  # fmt: skip
    assert all(one.found == () and one.checked > 0 for one in clean)
    # The same data, of which two problems are the benchmark's.
    file = Path(run.config.prompts.problems)
    problems = pq.read_table(file)
    heldout = pq.read_table(run.config.evaluate.benchmarks[0].problems)
    shared = heldout.select(problems.column_names).slice(3, 2).cast(problems.schema)
    pq.write_table(pq.read_table(file).slice(2), file)
    import pyarrow as pa

    pq.write_table(pa.concat_tables([problems.slice(2), shared]), file)
    ids = tuple(heldout["id"].to_pylist()[3:5])
    changed, other = contamination(run.config, digests)
    assert (changed.checked, changed.why) == (0, f"{file.name} is not what the run read")
    assert other.checked > 0
    [found, _] = contamination(run.config, {**digests, "prompts.problems": sha256_file(file)})
    assert set(ids) <= set(found.found)
    file.unlink()
    assert contamination(run.config, digests)[0].why == f"{file.name} is not there any more"


def test_a_licence_is_said_or_asked_for(stored, tmp_path, capsys):
    status, _, err = icpo(capsys, "push-model", stored, tmp_path / "out")
    assert status == 2
    assert "--licence apache-2.0" in err
    assert not (tmp_path / "out").exists()
    Path("base/README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    export.write(Run.read(stored), 2, tmp_path / "out", tmp_path / "none")
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    status, _, err = icpo(capsys, "push-model", f"{stored}@1", tmp_path / "one", "--licence", "mit")
    assert (status, "pruned" in err) == (2, True)


class StubHub:
    """Stands for `huggingface_hub.HfApi`: keeps what it is asked, sends nothing."""

    asked: list = []  # noqa: RUF012
    refuses = False

    def create_repo(self, repo_id, *, private, exist_ok):
        self.asked.append(("create", repo_id, private, exist_ok))
        return huggingface_hub.RepoUrl(
            f"https://hub.invalid/{repo_id}", endpoint="https://hub.invalid"
        )

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.refuses:
            raise huggingface_hub.errors.HFValidationError("no\nroom")
        self.asked.append(("upload", repo_id, sorted(one.name for one in folder_path.iterdir())))


def test_the_hub_is_given_the_folder_privately(stored, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", StubHub)
    monkeypatch.setattr(StubHub, "asked", [])
    words = ["push-model", stored, "--licence", "mit", "--hub", "us/model"]
    status, out, err = icpo(capsys, *words)
    assert status == 0, err
    assert "us/model" in out
    create, upload = StubHub.asked
    assert create == ("create", "us/model", True, True)
    assert upload[2] == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert (tmp_path / "models" / "run-2" / "README.md").is_file()
    monkeypatch.setattr(StubHub, "refuses", True)
    status, _, err = icpo(capsys, *words[:2], tmp_path / "again", *words[2:], "--public")
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "the hub did not take it (no)" in err
    assert StubHub.asked[-1] == ("create", "us/model", False, True)


def test_names_of_others_do_not_leave_their_cell():
    """Names come from data sets and runs of others: a table stays a table."""
    hostile = "x` | ![](http://a) |\n# head"
    told = model_card._contamination([model_card.Overlap(hostile, "d", 1, (hostile,))])
    [row] = told.splitlines()[-1:]
    assert row.startswith("| ``x` \\| ![](http://a) \\|")
    assert "\n# head" not in told


def test_a_link_in_a_run_is_not_published(stored: Path, tmp_path: Path, capsys) -> None:
    """It would put a file of this user's, by its content, into what others are given."""
    secret = tmp_path / "secret"
    secret.write_text("key")
    place = stored / "it-0002" / "update" / "model" / "tokenizer_config.json"
    place.unlink(missing_ok=True)
    place.symlink_to(secret)
    with pytest.raises(SystemExit) as ended:
        main(["push-model", str(stored), str(tmp_path / "out"), "--licence", "mit"])
    assert ended.value.code == 2
    assert "tokenizer_config.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out*"))
