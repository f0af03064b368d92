"""A short `python -m tests.chaos` with stand-ins; the long one, with engines, is run by hand."""

from __future__ import annotations

from collections.abc import Iterator

import faults
import ordeal
import pytest

FAULTS = 15
SEED = 7


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Place]:
    with faults.place(tmp_path_factory.mktemp("chaos"), SEED, 0.3) as made:
        yield made


@pytest.fixture(scope="module")
def trains(place: faults.Place) -> Iterator[ordeal.StandIns]:
    with ordeal.stand_ins(place, iterations=8) as made:
        made.moments = 0.5
        yield made


@pytest.fixture(scope="module")
def whole(trains: ordeal.StandIns, place: faults.Place) -> dict[str, str]:
    return ordeal.undisturbed(trains, place)


def test_nothing_is_lost(
    trains: ordeal.StandIns, place: faults.Place, whole: dict[str, str]
) -> None:
    tally = ordeal.Tally(SEED)
    ordeal.endure(trains, place, whole, tally, lambda: tally.injected.total() >= FAULTS, print)
    print(tally.table())
    assert tally.injected.total() >= FAULTS
    assert tally.reports == []
    assert tally.stages == tally.runs * len(whole)


def test_a_run_that_became_another_one_is_lost(
    trains: ordeal.StandIns, place: faults.Place, whole: dict[str, str]
) -> None:
    tally = ordeal.Tally(SEED)
    other = {**whole, "it-0003/update": "0" * 64}
    ordeal.endure(trains, place, other, tally, lambda: tally.runs > 0, print)
    assert tally.lost == tally.injected
    assert "other digests in silence: it-0003/update" in tally.reports[0]
    assert "1 runs" in tally.table()
