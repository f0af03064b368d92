"""The deployments of flow `icpo-eval`."""

import yaml


def test_the_deployments_are_scheduled_without_overlap(root):
    made = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    mine = {
        one["name"]: one for one in made if one["entrypoint"].startswith("icpo.flows.evaluate.")
    }
    assert set(mine) == {"run", "nightly"}
    [schedule] = mine["nightly"]["schedules"]
    assert schedule["cron"]
    assert schedule["timezone"] == "Etc/UTC"
    assert mine["nightly"]["concurrency_limit"] == {
        "limit": 1, "collision_strategy": "CANCEL_NEW",
    }  # fmt: skip
    assert "schedules" not in mine["run"]

    from icpo.flows import evaluate

    for name, one in mine.items():
        flow = getattr(evaluate, one["entrypoint"].rpartition(".")[2])
        assert flow.name == "icpo-eval"
        assert set(one.get("parameters", {})) <= set(flow.parameters.properties), name
