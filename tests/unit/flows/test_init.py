"""`icpo init`: what it writes is the demo, in a folder of one's own."""

import re
from pathlib import Path

import pytest
import yaml

from icpo.flows.cli import main
from icpo_core import config


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["init", "mine"])
    assert end.value.code == 0
    monkeypatch.chdir("mine")
    return tmp_path / "mine"


def test_its_configuration_is_the_demos(made: Path, root: Path) -> None:
    def whole(file: Path) -> str:
        read = config.load(file, name="same").model_dump_json()
        return re.sub(r'"[^"]*/data/(?:small/)?', '"', read)

    assert whole(Path("icpo.toml")) == whole(root / "configs" / "demo.toml")
    assert config.load(Path("icpo.toml")).run.name == "mine"
    assert all(str(made) in path for path in config.load(Path("icpo.toml")).prompts.exclude)


def test_the_reward_is_switched_on_as_the_file_says(made: Path) -> None:
    file = made / "icpo.toml"
    before, lines, after = re.split(r"((?:^# ?.*\n)+)(?=\n\[loss\])", file.read_text(), flags=re.M)
    [_, *rewards] = lines.splitlines()
    file.write_text("\n".join([before, *(line.removeprefix("# ") for line in rewards), after]))
    read = config.load(file)
    config.check_plugins(read)
    assert [one.name for one in read.verify.rewards] == ["answer", "short"]


def test_its_deployments_name_its_files(made: Path) -> None:
    deployments = yaml.safe_load((made / "prefect.yaml").read_text())["deployments"]
    [train] = [one for one in deployments if one["name"] == "train"]
    assert (made / train["parameters"]["config"]).is_file()


def test_what_cannot_be_made_is_one_line(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main([*words])
        assert end.value.code == 2
        return capsys.readouterr().err

    capsys.readouterr()
    assert "is there and not empty" in refused("init", ".")
    assert "is there and not empty" in refused("init", "reward.py")
    assert "a run is named by letters" in refused("init", "my run")
    monkeypatch.chdir("data")
    assert "icpo init NAME" in refused("train")
