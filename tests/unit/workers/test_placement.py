"""Engines and ranks on devices: none twice, and all named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DEMO

from icpo_core.config import Config, load
from icpo_core.workers import devices
from icpo_core.workers.placement import place

EIGHT = [str(number) for number in range(8)]


def config(*changes: str) -> Config:
    return load(DEMO, list(changes))


def test_colocated_fills_the_machine() -> None:
    found = place(config("rollout.engines=0", "update.ranks=0"), EIGHT, {})
    assert found.engines == [[name] for name in EIGHT]
    assert found.trainer == EIGHT
    assert (found.ranks, found.shared) == (8, True)
    pairs = place(config("rollout.engines=0", "rollout.engine.tensor_parallel=2"), EIGHT, {})
    assert pairs.engines == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
    assert pairs.trainer == ["0"]  # one rank, as asked for


def test_split_shares_nothing() -> None:
    found = place(config("run.placement=split", "rollout.engines=0", "update.ranks=6"), EIGHT, {})
    assert found.trainer == EIGHT[:6]
    assert found.engines == [["6"], ["7"]]
    assert not found.shared
    found = place(config("run.placement=split", "rollout.engines=3", "update.ranks=0"), EIGHT, {})
    assert (found.ranks, found.trainer, len(found.engines)) == (5, EIGHT[:5], 3)


def test_several_machines() -> None:
    hosts = {"here": 4, "there": 8}
    found = place(
        config("run.placement=split", "rollout.engines=0", "update.ranks=0"), EIGHT, hosts
    )
    assert (found.ranks, found.trainer) == (12, EIGHT[:4])
    assert len(found.engines) == 4
    with pytest.raises(ValueError, match=r"update\.ranks = 3, and .* has 12 slots"):
        place(config("update.ranks=3"), EIGHT, hosts)


def test_without_devices_all_is_one() -> None:
    found = place(config("rollout.engines=0", "update.ranks=0", "run.placement=split"), [], {})
    assert (found.engines, found.trainer, found.ranks, found.shared) == ([[]], [], 1, False)


def test_sampling_while_training_needs_devices_of_its_own() -> None:
    changes = ["rollout.off_policy_steps=1", "loss.correction=truncate"]
    with pytest.raises(ValueError, match=r"set run\.placement = split, or rollout\.off_policy"):
        place(config(*changes), EIGHT, {})
    assert place(config(*changes, "run.placement=split", "update.ranks=4"), EIGHT, {}).engines
    assert place(config(*changes), [], {}).engines == [[]]
    served = place(config(*changes, "rollout.endpoints=['http://gpu-2:8000']"), EIGHT, {})
    assert (served.engines, served.shared) == ([], False)


@pytest.mark.parametrize(
    "changes",
    [
        ["update.ranks=9"],
        ["rollout.engines=9"],
        ["rollout.engine.tensor_parallel=16"],
        ["run.placement=split", "update.ranks=7", "rollout.engines=2"],
        ["run.placement=split", "update.ranks=0", "rollout.engines=8"],
        ["run.placement=split", "update.ranks=8"],
    ],
)
def test_what_does_not_fit_is_said(changes: list[str]) -> None:
    with pytest.raises(ValueError, match=r"8 devices \(0, 1.*lower update\.ranks"):
        place(config(*changes), EIGHT, {})
    with pytest.raises(ValueError, match="say how many"):
        place(config("run.placement=split", "rollout.engines=0", "update.ranks=0"), EIGHT, {})


@given(st.integers(1, 16), st.integers(0, 16), st.integers(0, 16), st.integers(1, 4), st.booleans())
def test_no_device_twice(count: int, engines: int, ranks: int, each: int, split: bool) -> None:
    names = [f"gpu-{number}" for number in range(count)]
    wanted = config(
        f"rollout.engines={engines}", f"update.ranks={ranks}",
        f"rollout.engine.tensor_parallel={each}",
        f"run.placement={'split' if split else 'colocated'}",
    )  # fmt: skip
    try:
        found = place(wanted, names, {})
    except ValueError:
        return
    given = [name for engine in found.engines for name in engine]
    assert len(set(given)) == len(given) == len(found.engines) * each
    assert set(given) <= set(names)
    assert len(found.engines) == (engines or len(found.engines)) >= 1
    assert len(found.trainer) == found.ranks == (ranks or found.ranks) >= 1
    assert not split or not set(given) & set(found.trainer)


def test_visible_devices_are_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VARIABLE, "2, GPU-8a1,MIG-7/1")
    assert devices.visible() == ["2", "GPU-8a1", "MIG-7/1"]
    for nothing in ("", "-1"):
        monkeypatch.setenv(devices.VARIABLE, nothing)
        assert devices.visible() == []
