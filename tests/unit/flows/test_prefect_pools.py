"""Job templates of Kubernetes, Docker and Slurm, put to the integrations that use them.

The integrations are installed into an environment of their own, beside the Prefect of this project:
newer ones ask for a newer Prefect, and loading them would slow every `prefect` command down.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

INTEGRATIONS = ("prefect-kubernetes==0.7.11", "prefect-docker==0.7.3", "prefect-slurm==0.1.7")
"""The newest that go with Prefect 3.7.7."""

FILL = """
import asyncio, json, sys
from uuid import uuid4
from prefect.client.schemas.objects import FlowRun
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from prefect_slurm.config import SlurmWorkerConfiguration

CLASSES = {
    "kubernetes": KubernetesWorkerJobConfiguration,
    "docker": DockerWorkerJobConfiguration,
    "slurm": SlurmWorkerConfiguration,
}

async def fill(name, values):
    template = json.load(open(f"{sys.argv[1]}/{name}.json"))
    kind = CLASSES[name]
    known = set(kind.model_fields)
    assert set(template["job_configuration"]) <= known, set(template["job_configuration"]) - known
    run = FlowRun(id=uuid4(), name="train demo", flow_id=uuid4())
    made = await kind.from_template_and_values(template, values)
    made.prepare_for_flow_run(run)
    facts = made.model_dump(mode="json")
    if name == "slurm":
        facts["spec"] = made.get_slurm_job_spec(run)
    return facts

jobs = json.loads(sys.argv[2])
print("FACTS" + json.dumps([asyncio.run(fill(name, values)) for name, values in jobs], default=str))
"""


@pytest.fixture(scope="module")
def filled(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each integration makes of our template, with its defaults and with some values."""
    folder = tmp_path_factory.mktemp("integrations")
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    python = folder / "venv" / "bin" / "python"
    same = [f"{name}=={version(name)}" for name in ("prefect", "fastapi")]
    wanted = [*same, *INTEGRATIONS]
    try:
        for command in (
            [uv, "venv", "-q", "-p", sys.executable, str(folder / "venv")],
            [uv, "pip", "install", "-q", "-p", str(python), *wanted],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=180)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the integrations cannot be installed here ({error})")
    jobs: list[tuple[str, dict[str, Any]]] = [
        ("kubernetes", {}), ("docker", {}), ("slurm", {}),
        ("kubernetes", {"gpus": 1, "runs_claim": "mine", "image": "registry/icpo:2"}),
    ]  # fmt: skip
    script = folder / "fill.py"
    script.write_text(FILL)
    done = subprocess.run(
        [str(python), str(script), str(root / "configs" / "work_pools"), json.dumps(jobs)],
        capture_output=True, text=True, cwd=folder, timeout=120,
        env={**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"},  # nobody is asked
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.partition("FACTS")[2])
    return dict(zip(("kubernetes", "docker", "slurm", "changed"), facts, strict=True))


def test_kubernetes_gives_a_pod_with_gpus_and_the_runs(filled: dict[str, Any]) -> None:
    manifest = filled["kubernetes"]["job_manifest"]
    assert manifest["kind"] == "Job"
    pod = manifest["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == "icpo-runs"
    assert volumes["shm"]["emptyDir"]["sizeLimit"] == "32Gi"
    given = {one["name"]: one["value"] for one in container["env"]}
    assert given["ICPO_HOME"] == "/opt/icpo"
    # A pod that is evicted is put back in the queue, and the run goes on from what is stored.
    assert given["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert "prefect" in " ".join(container["args"])


def test_kubernetes_takes_values_of_a_deployment(filled: dict[str, Any]) -> None:
    pod = filled["changed"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["containers"][0]["image"] == "registry/icpo:2"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"


def test_docker_gives_a_container_with_gpus_and_the_runs(filled: dict[str, Any]) -> None:
    made = filled["docker"]
    assert made["volumes"] == ["/srv/icpo/runs:/runs"]
    assert made["container_create_kwargs"]["shm_size"] == "32g"
    [request] = made["container_create_kwargs"]["device_requests"]
    assert request["capabilities"] == [["gpu"]]
    assert made["env"]["ICPO_HOME"] == "/opt/icpo"


def test_slurm_gives_a_job_in_the_project(filled: dict[str, Any]) -> None:
    job = filled["slurm"]["spec"]["job"]
    assert job["partition"] == "gpu"
    assert job["current_working_directory"] == "/shared/icpo"
    assert "source /shared/icpo/.venv/bin/activate" in job["script"]
    assert "prefect" in job["script"].splitlines()[-1]
    assert "ICPO_HOME=/shared/icpo" in job["environment"]
    assert job["time_limit"] == {"set": True, "number": 72 * 60}


def test_run_and_worker_settings_are_those_of_icpo_up(root: Path) -> None:
    from icpo.flows.prefect_compat.settings import RUNS

    for name in ("kubernetes", "docker", "slurm"):
        template = json.loads((root / "configs" / "work_pools" / f"{name}.json").read_text())
        given = template["variables"]["properties"]["env"]["default"]
        assert {key: given[key] for key in RUNS} == RUNS
