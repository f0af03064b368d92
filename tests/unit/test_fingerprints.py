"""Fingerprints outlive versions: what v0.1.0 stored is what today's code names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from icpo_core.common import keys, plugins
from icpo_core.common.files import canonical_digest
from icpo_core.common.keys import Operational, Renamed, Since
from icpo_core.config import (
    PLUGGED,
    Config,
    Section,
    as_stored,
    build,
    compared,
    load,
    plugin_sources,
    slice_of,
    stored,
)
from icpo_core.run.stages import STAGES
from icpo_core.store import manifest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN: dict[str, Any] = json.loads((ROOT / "tests/data/fingerprints.json").read_text())
"""By tests/data/make_fingerprints.py, run at commit 9696e7e (v0.1.0): for every preset, every
configuration that ships and unusual ones, the digest of each stage's slice and its fingerprint with
invented inputs. A change here makes stored runs stale: say so in CHANGELOG.md."""
INPUTS = {"input": "0" * 64}
CALLED_NOW = {"select.divide_by_std=false": "select.advantage=group-mean"}
AS_BEFORE = ["verify.rules.evaluated=false", "prompts.fill=0", "select.truncated=wrong"]
"""Keys whose value has moved away from what v0.1.0 did, by default (a stored run keeps that) or in
the preset dapo (a stored run keeps that, too)."""
DEMO = ROOT / "configs" / "demo.toml"


@pytest.mark.parametrize("name", GOLDEN)
def test_stages_are_those_of_v0_1_0(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    case = GOLDEN[name]
    overrides = [CALLED_NOW.get(one, one) for one in case["overrides"]]
    config = load(Path(case["config"]), [*overrides, *AS_BEFORE])
    found = {}
    for stage, spec in STAGES.items():
        if not spec.wanted(config):  # newer than v0.1.0, which has none of it
            continue
        part, seed = spec.settings(config), 0 if spec.draws else None
        print_ = manifest.fingerprint(stage, 1, spec.version, INPUTS, part, seed)
        found[stage] = {"slice": canonical_digest(part), "fingerprint": print_}
    assert found == case["stages"]


# --- keys that come and keys that are renamed ---------------------------------------------------


class Inner(Section):
    depth: Annotated[int, Since(1)] = 1


class Grown(Section):
    old: int = 1
    new: Annotated[str, Since("math")] = "math"
    other: Annotated[bool | None, Since(None)] = None
    workers: Annotated[int, Operational, Since(2)] = 2
    fresh: Inner = Inner()
    spread: Annotated[str, Renamed("9", "flag", {True: "on", False: "off"})] = "on"


def test_a_new_key_is_fingerprinted_where_it_changes_something() -> None:
    assert slice_of(Grown()) == {"old": 1, "flag": True}
    assert slice_of(Grown(new="other", other=False, workers=9)) == {
        "old": 1,
        "new": "other",
        "other": False,
        "flag": True,
    }
    assert slice_of(Grown(fresh=Inner(depth=2)))["fresh"] == {"depth": 2}


def test_the_default_may_move_away_from_since() -> None:
    """A key that begins as neutral and whose default changes later: stored runs keep their own."""

    class Moved(Section):
        new: Annotated[str, Since("a")] = "b"

    assert slice_of(Moved()) == {"new": "b"}
    assert slice_of(Moved(new="a")) == {}


def test_moved_defaults_change_the_slice_of_their_own_stage_alone() -> None:
    before, today = load(DEMO, AS_BEFORE), load(DEMO)
    changed = [
        stage for stage, spec in STAGES.items() if spec.settings(before) != spec.settings(today)
    ]
    assert changed == ["verify"]
    assert slice_of(today.verify)["rules"].pop("evaluated") is True
    assert "evaluated" not in slice_of(before.verify)["rules"]


def without_new_keys(config: Config) -> dict[str, Any]:
    """`config.json` as a version without `verify.rules.evaluated` wrote it."""
    raw = config.model_dump(mode="json")
    for section in ("verify", "evaluate"):
        del raw[section]["rules"]["evaluated"]
    return raw


def test_a_stored_configuration_without_a_key_has_its_neutral_value() -> None:
    assert load(DEMO).verify.rules.evaluated
    assert not load(DEMO).evaluate.rules.evaluated
    old = stored(without_new_keys(load(DEMO)), "config.json")
    assert not old.verify.rules.evaluated
    assert old == load(DEMO, AS_BEFORE)
    for spec in STAGES.values():
        assert spec.settings(old) == spec.settings(load(DEMO, AS_BEFORE))


def test_a_stored_run_keeps_moved_defaults_until_somebody_says_otherwise() -> None:
    raw = without_new_keys(load(DEMO))
    assert not as_stored(load(DEMO), raw).verify.rules.evaluated
    assert as_stored(load(DEMO, ["verify.rules.evaluated=true"]), raw).verify.rules.evaluated
    gone_on = as_stored(load(DEMO), raw).model_dump(mode="json")
    assert not as_stored(load(DEMO), gone_on).verify.rules.evaluated
    new = load(DEMO).model_dump(mode="json")
    assert as_stored(load(DEMO), new) == load(DEMO)


def test_a_preset_that_has_grown_leaves_a_stored_run_what_it_is() -> None:
    """`dapo` of 0.1.0 had neither dynamic sampling nor the soft penalty."""
    dapo = load(DEMO, ["preset=dapo"])
    assert (dapo.prompts.fill, dapo.select.truncated) == (9, "shaped")
    raw = dapo.model_dump(mode="json")
    del raw["prompts"]["fill"], raw["select"]["truncated"]
    kept = as_stored(dapo, raw)
    assert (kept.prompts.fill, kept.select.truncated) == (0, "wrong")
    assert as_stored(kept, kept.model_dump(mode="json")) == kept
    # What somebody says counts, and a run that is begun now is what the preset is now.
    assert as_stored(load(DEMO, ["preset=dapo", "prompts.fill=9"]), raw).prompts.fill == 9
    assert as_stored(dapo, dapo.model_dump(mode="json")) == dapo
    # Another preset is asked for: that is no upgrade, and is told.
    assert as_stored(dapo, raw | {"preset": "grpo"}).prompts.fill == 9
    # Only such keys: what somebody has changed in the file is changed.
    assert as_stored(load(DEMO, ["verify.seconds=9"]), raw).verify.seconds == 9


def test_a_renamed_key_is_fingerprinted_as_before() -> None:
    assert slice_of(Grown(spread="off"))["flag"] is False
    third = slice_of(Grown(spread="third"))
    assert (third["spread"], "flag" in third) == ("third", False)
    assert keys.in_todays_words({"flag": False, "old": 2}, Grown) == {"spread": "off", "old": 2}
    whole = keys.in_todays_words({"flag": False, "fresh": {}}, Grown, whole=True)
    assert (whole["new"], whole["spread"], whole["fresh"]) == ("math", "off", {"depth": 1})


def test_a_stored_configuration_of_v0_1_0_is_read() -> None:
    raw = load(DEMO, ["select.advantage=group-mean"]).model_dump(mode="json")
    before = {key: value for key, value in raw["select"].items() if key != "advantage"}
    before["divide_by_std"] = False
    config = stored(raw | {"select": before}, "config.json")
    assert config.select.advantage == "group-mean"
    assert config == stored(raw, "config.json")
    # What somebody writes by hand is corrected by hand.
    with pytest.raises(ValueError, match=r"select.divide_by_std: is called advantage now") as said:
        build(raw | {"select": before}, "run.toml")
    assert 'write advantage = "group-mean"' in str(said.value)


def test_differences_are_said_in_todays_words() -> None:
    old = compared({"select": {"divide_by_std": True, "delta": 1.0}, "rollout.temperature": 1.0})
    today = {"select": {"advantage": "group", "delta": 1.0}, "rollout.temperature": 1.0}
    assert old == compared(today)  # which adds the neutral value of newer keys
    assert old["rollout.temperature"] == 1.0
    assert old["select"].items() >= today["select"].items()
    assert "divide_by_std" not in old["select"]


def test_the_penalty_on_length_depends_on_the_longest_response() -> None:
    def part(*changes: str) -> dict[str, Any]:
        return STAGES["select"].settings(load(DEMO, list(changes)))

    longer, shaped = "rollout.max_tokens=20", "select.truncated=shaped"
    assert part(longer) == part()
    assert part(shaped) != part(longer, shaped)
    assert part("select.overlong_tokens=3") != part()


# --- one's own sources ----------------------------------------------------------------------------


def test_own_sources_count_by_content_and_not_by_place(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "mine.py").write_text("def centred(groups):\n    return groups.centred_N\n")
        config = load(DEMO, [f"select.advantage={folder}/mine.py:centred"])
        found.append((slice_of(config.select), plugin_sources(config, "select")))
    assert found[0] == found[1]
    assert found[0][0]["advantage"] == "mine.py:centred"
    assert "divide_by_std" not in found[0][0]
    assert found[0][1].keys() == {"select.advantage"}
    for stage in ("prompts", "rollout", "verify", "update", "evaluate", "checkpoint"):
        assert plugin_sources(config, stage) == {}
    (tmp_path / "b" / "mine.py").write_text("def centred(groups):\n    return groups.rewards_N\n")
    assert plugin_sources(config, "select") != found[1][1]
    (tmp_path / "b" / "mine.py").unlink()
    with pytest.raises(ValueError, match="check the path"):
        plugin_sources(config, "select")
    # Reading what is stored needs no source.
    assert stored(config.model_dump(mode="json"), "config.json") == config


def test_built_in_things_have_no_source() -> None:
    assert plugin_sources(load(DEMO), "select") == plugin_sources(load(DEMO), "update") == {}


def pluggable(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        said = keys.said(field, plugins.Pluggable)
        if said is not None and said.own:
            yield prefix + name
        if (inner := keys.model_of(field.annotation)) is not None:
            yield from pluggable(inner, f"{prefix}{name}.")


def test_every_key_that_may_name_a_source_is_looked_at() -> None:
    """Another one would change results without changing a fingerprint."""
    assert set(pluggable()) <= PLUGGED.keys()
