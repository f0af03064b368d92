"""The timeline: what a run says of when things ran, and what is made of it."""

from __future__ import annotations

import json

import pytest
import stubs

from icpo.tasks import pages
from icpo_core.models.architecture import KNOWN
from icpo_core.models.flops import peak, training_flops, utilization
from icpo_core.run import metrics, timeline
from icpo_core.run.run import Run
from icpo_core.views.report.gather import gather


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    with stubs.stubbed(Run.of(stubs.configuration(folder))) as session:
        stubs.train(session)
    return Run.read(folder / "runs" / "run")


def test_stages_and_gaps_make_up_the_whole_time(run):
    first, last = timeline.manifests(run.store, 0)[0], timeline.manifests(run.store, 3)[-1]
    rows = metrics.read(run.paths)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    parts = sum(value for row in rows for name, value in row.items() if name.startswith("seconds/"))
    assert parts == pytest.approx(last.started + last.seconds - first.started, abs=0.05)
    for row in rows[1:]:
        assert row["seconds/outside"] >= 0
        assert row["tokens_per_second/rollout"] > 0


def test_spans_lie_within_the_iteration(run):
    spans = timeline.spans(timeline.manifests(run.store, 2))
    lanes = {one.lane for one in spans}
    assert {timeline.FLOW, "engines", "engine 0", "judges", "prompts"} <= lanes
    rollout = next(one for one in spans if one.lane == timeline.FLOW and one.name == "rollout")
    parts = [one for one in spans if one.lane == "engine 0" and one.name.startswith("part ")]
    assert len(parts) == 2
    for part in parts:
        assert rollout.started - 0.01 <= part.started
        assert part.ended <= rollout.ended + 0.01


def test_time_in_which_the_run_was_not_there_is_no_gap(run):
    first, second = timeline.manifests(run.store, 1)[:2]
    later = second.model_copy(update={"facts": second.facts | {"attempt": 2}})
    late = second.model_copy(update={"started": first.started + first.seconds + 5.0})
    assert timeline.gaps([first, later]) == {}
    assert timeline.gaps([first, late]) == {"rollout": pytest.approx(5.0)}


def test_what_the_page_and_the_artifact_show(run, tmp_path):
    found = gather([run.paths.root], tmp_path)["runs"][0]["timelines"]
    assert [one["iteration"] for one in found] == [0, 1, 2, 3]
    assert ["stages", "update"] in [span[:2] for span in found[2]["spans"]]
    assert min(span[2] for span in found[2]["spans"]) == 0
    assert len(json.dumps(found)) < 20_000
    text = pages.timeline_of(run.store, 2)
    assert "| `stages` | `rollout` |" in text
    assert "| `judges` | `part-00000-of-00002.parquet ahead` |" in text


def test_known_devices_have_a_peak():
    assert peak("NVIDIA H100 80GB HBM3") == 989e12
    assert peak("NVIDIA H100 PCIe") == 756e12
    assert peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak("NVIDIA L40S") != peak("NVIDIA L4")
    assert peak("") is None
    assert utilization(1e15, 2.0, "NVIDIA H100 80GB HBM3", 2) == pytest.approx(1e15 / 4 / 989e12)
    assert utilization(1e15, 2.0, "", 1) is None


def test_flops_are_six_a_parameter_and_token():
    """Of a long row attention adds to it; the head counts at response tokens only."""
    shape = KNOWN["Qwen/Qwen3-1.7B"]
    body = shape.layers * shape.layer_parameters
    assert training_flops(shape, [(1, 1, 0)]) == pytest.approx(6 * body, rel=1e-3)
    head = training_flops(shape, [(1, 1, 1)]) - training_flops(shape, [(1, 1, 0)])
    assert head == 6 * shape.vocabulary * shape.width
    assert training_flops(shape, [(8192, 8192, 0)]) > 8192 * training_flops(shape, [(1, 1, 0)])
    saved = training_flops(shape, [(9, 9, 0)]) - training_flops(shape, [(9, 4, 0)])
    assert saved == pytest.approx(5 * 6 * body, rel=1e-3)
