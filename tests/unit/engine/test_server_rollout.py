"""Rollouts from `vllm serve`: what is sent and made of answers, against a plain HTTP server."""

import json
import math
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from places import DEMO
from safetensors.torch import load_file, save_file
from stub_server import Stub

from icpo_core.common import files
from icpo_core.common.files import model_digest
from icpo_core.config import EngineSection, LoraSection, load
from icpo_core.engine.jobs import rollout_shard
from icpo_core.engine.kinds import server
from icpo_core.engine.kinds.base import Request
from icpo_core.engine.kinds.server import EndpointError, ServedEngine
from icpo_core.engine.kinds.vllm import WorkerExtension
from icpo_core.run import sources
from icpo_core.run.run import Run
from icpo_core.run.stages import rollout
from icpo_core.store import tables
from icpo_core.workers.environment import endpoint_key
from icpo_core.workers.jobs import Rollout
from icpo_core.workers.placement import place
from icpo_core.workers.pool import Engines, Fleet


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.01)
    with Stub() as there:
        threading.Thread(target=there.serve_forever, args=(0.02,), daemon=True).start()
        yield there
        there.ended.set()
        there.shutdown()


def engine(stub: Stub, small: Path) -> ServedEngine:
    return ServedEngine(stub.address, small / "base", EngineSection(max_model_len=256))


def test_token_ids_go_in_and_come_out_in_order(stub: Stub, small: Path) -> None:
    requests = [Request([3] * length, seed=length) for length in (4, 1, 3, 2)]
    samples = engine(stub, small).sample(requests, 0.7, 3)
    assert [len(sample.response_ids) for sample in samples] == [3, 1, 3, 2]
    assert samples[0].logprobs == [-0.5] * 3
    sent = sorted(
        (body for _, body in stub.asked[server.COLD_TOKENS :]), key=lambda body: body["token_ids"]
    )
    assert [body["token_ids"] for body in sent] == [[3], [3, 3], [3] * 3, [3] * 4]
    params = sent[0]["sampling_params"]
    assert (params["temperature"], params["seed"], params["ignore_eos"]) == (0.7, 1, True)
    assert params["stop_token_ids"] == engine(stub, small).eos_ids


def test_passing_failures_are_tried_again(stub: Stub, small: Path) -> None:
    there = engine(stub, small)
    stub.failing = 3
    assert len(there.sample([Request([3], 0)], 1.0, 1)) == 1
    stub.failing = 10**6
    with pytest.raises(EndpointError, match=r"no answer after 5 tries \(HTTP 503"):
        there.sample([Request([3], 0)], 1.0, 1)


def test_a_dead_address(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointError, match="ConnectError"):
        ServedEngine(f"http://127.0.0.1:{port}", small / "base", EngineSection())


def test_a_server_started_otherwise_is_refused(stub: Stub, small: Path) -> None:
    stub.cold = -1.2
    with pytest.raises(ValueError, match="--logprobs-mode processed_logprobs"):
        engine(stub, small)
    stub.cold = 0.0
    there = engine(stub, small)
    version = model_digest(small / "base")
    for method in ("reload_weights", "repack"):
        stub.refused = {method: "no such path"}
        with pytest.raises(ValueError, match=f"refused {method} .*must see this path"):
            there.load(small / "base", version)
        assert there.policy_version == ""
    stub.refused = {}
    there.load(small / "base", version)
    assert there.policy_version == version


@pytest.mark.parametrize("head", ["", "torch.bfloat16", "torch.float32"])
def test_a_server_with_another_head_is_refused(head: str, stub: Stub, small: Path) -> None:
    stub.head = head
    settings = EngineSection(max_model_len=256, head_dtype="float32")
    if head == "torch.float32":
        ServedEngine(stub.address, small / "base", settings)
        return
    with pytest.raises(ValueError, match=r"--hf-overrides .*head_dtype.*float32"):
        ServedEngine(stub.address, small / "base", settings)


def test_a_server_leaves_out_ids_that_no_token_has(stub: Stub, small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(small / "base", folder)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    there = ServedEngine(stub.address, folder, EngineSection(max_model_len=256))
    there.load(folder, model_digest(folder))
    bodies = [body for path, body in stub.asked if path == "/collective_rpc"]
    assert [body["method"] for body in bodies] == ["reload_weights", "repack", "mask"]
    assert bodies[-1]["kwargs"] == {"ranges": [[99, 128]]}


def test_the_weights_are_read_once_for_all_servers(
    stub: Stub, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the run, which has none loaded that it did not read."""
    config = load(
        small.parents[1] / "configs" / "demo.toml", [f"rollout.endpoints={[stub.address] * 8}"]
    )
    read: list[Path] = []
    digest = files.sha256_file
    monkeypatch.setattr(files, "sha256_file", lambda path: read.append(path) or digest(path))
    with Engines(Fleet.of(config, small / "base"), tmp_path, []) as engines:
        with pytest.raises(ValueError, match="holds weights"):
            engines.load(small / "base", "other", None)
        assert not engines._engines
        version = model_digest(small / "base")
        read.clear()
        engines.load(small / "base", version, None)
        assert len(read) == 1
        asked = [body["method"] for path, body in stub.asked if path == "/collective_rpc"]
        assert asked.count("reload_weights") == 8


def test_masked_ids_have_no_logit() -> None:
    """Whatever was masked before, and whatever the model returns where it has no logits."""

    class Model(torch.nn.Module):
        def compute_logits(self, hidden: torch.Tensor | None) -> torch.Tensor | None:
            return None if hidden is None else hidden * 2

    extension = WorkerExtension()
    extension.model_runner = SimpleNamespace(model=Model())  # type: ignore[attr-defined]
    model = extension.model_runner.model  # type: ignore[attr-defined]
    hidden = torch.ones(2, 6)
    extension.mask([[1, 3], [5, 6]])
    assert model.compute_logits(hidden)[0].tolist() == [2, -math.inf, -math.inf, 2, 2, -math.inf]
    assert model.compute_logits(None) is None
    extension.mask([[0, 1]])
    assert model.compute_logits(hidden)[0].tolist() == [-math.inf, 2, 2, 2, 2, 2]
    extension.mask([])
    assert model.compute_logits(hidden).tolist() == [[2] * 6] * 2
    assert hidden.tolist() == [[1] * 6] * 2


def test_a_server_that_is_restarted_midway(stub: Stub, small: Path, tmp_path: Path) -> None:
    """It would sample from the weights that it was started with."""
    rows = [{"token_ids": [3, 7], "logprobs": [-0.5]}]
    probe = tmp_path / "probe.parquet"
    tables.write("probe", tables.table("probe", rows), probe)
    there = engine(stub, small)
    there.load(small / "base", model_digest(small / "base"))
    assert there.prove(probe, None) == 0.0
    there.sample([Request([3], 0)], 1.0, 1)
    stub.prompt_logprob = -2.0
    with pytest.raises(EndpointError, match="does not hold the weights"):
        there.sample([Request([3], 0)], 1.0, 1)
    assert there.policy_version == ""


def test_one_prompt_that_a_server_fails_at_costs_that_prompt(
    stub: Stub, small: Path, tmp_path: Path
) -> None:
    there = engine(stub, small)
    there.policy_version = "v"
    stub.poison = [5, 5]
    made = there.sample([Request([3], 0), Request([5, 5], 1), Request([4], 2)], 1.0, 2)
    assert [one.finish_reason for one in made] == ["length", "error", "length"]
    assert made[1].response_ids == []
    row = {
        "answer": "4", "problem": "p", "source": "s", "expert_prompt": None, "demo_ids": [],
        "expert_prompt_ids": None, "policy_prompt": "p", "trace": None,
    }  # fmt: skip
    rows = [
        {**row, "prompt_id": name, "policy_prompt_ids": ids}
        for name, ids in (("bad", [5, 5]), ("good", [3, 3]))
    ]
    prompts, out = tmp_path / "prompts.parquet", tmp_path / "part.parquet"
    tables.write("prompts", tables.table("prompts", rows), prompts)
    job = Rollout(
        prompts=prompts, shard=0, shards=1, on_policy=2, expert=0, expert_source="in_context",
        temperature=1.0, max_tokens=2, seed=0, iteration=1, policy_version="v", out=out,
        fingerprint="f",
    )  # fmt: skip
    tokenizer = SimpleNamespace(decode=lambda ids, **_: str(ids))
    assert rollout_shard(there, tokenizer, job, lambda done, all_: None).rows == 2
    assert set(tables.read("rollout", out)["prompt_id"].to_pylist()) == {"good"}
    assert rollout.groups_in([out]) == 1


def test_a_server_that_fails_at_everything_is_no_server(stub: Stub, small: Path) -> None:
    there = engine(stub, small)
    stub.refused = {None: "the engine is dead"}  # of every request to sample
    with pytest.raises(EndpointError, match=r"after 5 tries \(HTTP 500"):
        there.sample([Request([3], 0), Request([4], 1)], 1.0, 1)
    stub.refused, stub.poison = {}, [3]
    with pytest.raises(EndpointError, match="answers none of 2 requests"):
        there.sample([Request([3], 0), Request([3], 1)], 1.0, 1)


NO_ANSWERS = (
    b"", b"nothing", b"[" * 100_000, b"{}", b'{"choices": []}', b'{"choices": [{}]}', b"\xff",
    b'{"choices": [{"token_ids": [-1], "logprobs": {"content": [{"token_id": -1, '
    b'"logprob": 0}]}, "finish_reason": "stop"}]}',
    b'{"choices": [{"token_ids": [1], "logprobs": {"content": [{"token_id": 1, '
    b'"logprob": NaN}]}, "finish_reason": "stop"}]}',
    b'{"choices": [{"token_ids": [1, 1], "logprobs": {"content": [{"token_id": 1, '
    b'"logprob": 0}, {"token_id": 1, "logprob": 0}]}, "finish_reason": "stop"}]}',
    b'{"choices": [{"token_ids": [1], "logprobs": {"content": []}, "finish_reason": "stop"}]}',
)  # fmt: skip


def test_an_answer_that_is_none(stub: Stub, small: Path) -> None:
    there = engine(stub, small)
    for stub.answer in NO_ANSWERS:
        with pytest.raises(EndpointError) as caught:
            there.sample([Request([3], 0)], 1.0, 1)
        assert len(str(caught.value)) < 400
        with pytest.raises(EndpointError):
            there.score([[3, 7]])


def test_answers_are_bounded(stub: Stub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = engine(stub, small)
    stub.answer = b" " * (3 << 20)
    with pytest.raises(EndpointError, match="answers more than 10567"):
        there.sample([Request([3], 0)], 1.0, 1)
    stub.drips = True
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.3)
    with pytest.raises(EndpointError, match="no answer in"):
        there.sample([Request([3], 0)], 1.0, 1)


def test_a_silent_server_is_noticed(
    stub: Stub, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = engine(stub, small)
    monkeypatch.setattr(server, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(server, "SILENT_SECONDS", 0.1)
    stub.silent = True
    for ask in (
        lambda: there.sample([Request([3], 0)], 1.0, 1),
        lambda: there.load(small / "base", model_digest(small / "base")),
    ):
        with pytest.raises(EndpointError, match="no sign of life"):
            ask()


def test_the_key_goes_to_no_other_address(
    stub: Stub, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    there = engine(stub, small)
    assert stub.keys == {"Bearer secret"}
    with Stub() as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        stub.elsewhere = other.address
        for ask in (
            lambda: there.sample([Request([3], 0)], 1.0, 1),
            lambda: there.load(small / "base", model_digest(small / "base")),
        ):
            with pytest.raises(EndpointError, match="sends elsewhere, which is not followed"):
                ask()
        assert other.asked == []
        other.shutdown()


def test_beyond_this_machine_there_is_a_key(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for address in ("http://127.0.0.1:1", "http://localhost:1", "https://[::1]:1"):
        assert endpoint_key(address) is None
    for address in ("http://192.0.2.1:1", "http://gpu-2:1", "http://127.0.0.1.evil.example", "x"):
        with pytest.raises(ValueError, match="set VLLM_API_KEY"):
            ServedEngine(address, small / "base", EngineSection())
    run = Run.of(load(DEMO, ['rollout.endpoints=["http://192.0.2.1:1"]']))
    with pytest.raises(ValueError, match="set VLLM_API_KEY"):
        sources.require(run)
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert endpoint_key("http://gpu-2:1") == "secret"
    sources.require(run)


def test_configuration(small: Path) -> None:
    with pytest.raises(ValueError, match="must begin with http"):
        load(DEMO, ['rollout.endpoints=["gpu-1:8000"]'])
    with pytest.raises(ValueError, match=r"leave out rollout\.engines"):
        load(DEMO, ['rollout.endpoints=["http://a:1"]', "rollout.engines=2"])
    config = load(DEMO, ['rollout.endpoints=["http://a:1"]', "update.ranks=0"])
    found = place(config, ["0", "1"], {})
    assert (found.engines, found.trainer, found.shared) == ([], ["0", "1"], False)


def test_adapters_go_beside_the_model_that_the_server_holds(
    stub: Stub, small: Path, tmp_path: Path
) -> None:
    base, section = small / "base", EngineSection(max_model_len=256)
    there = ServedEngine(stub.address, base, section, LoraSection(rank=4))
    folders, versions = [tmp_path / "1", tmp_path / "2"], []
    for number, folder in enumerate(folders):
        shutil.copytree(base, folder)
        weights = folder / "model.safetensors"
        whole = load_file(weights)
        save_file({name: value + number for name, value in whole.items()}, weights)
        (folder / "adapter").mkdir()
        versions.append(model_digest(folder))

    def load(folder: Path) -> list[tuple[str, Any]]:
        stub.asked.clear()
        there.load(folder, model_digest(folder))
        asked = [(path, body.get("lora_name"), body.get("lora_path")) for path, body in stub.asked]
        stub.asked.clear()
        there.sample([Request([1, 2], 0)], 1.0, 2)
        [(path, body)] = stub.asked
        assert path == "/inference/v1/generate"
        return [*asked, body.get("model")]

    first, second = (f"icpo-{version[:12]}" for version in versions)
    unload, put, forget = "/v1/unload_lora_adapter", "/v1/load_lora_adapter", "/reset_prefix_cache"
    assert load(folders[0]) == [
        (unload, first, None), (put, first, str(folders[0] / "adapter")), (forget, None, None),
        first,
    ]  # fmt: skip
    other = load(folders[1])
    assert {(unload, first, None), (unload, second, None)} == set(other[:2])
    assert other[2:] == [
        (put, second, str(folders[1] / "adapter")), (forget, None, None), second,
    ]  # fmt: skip
    # The base model again: no adapter, and no weights are sent for.
    assert load(base) == [(unload, second, None), (forget, None, None), None]
    shutil.rmtree(folders[0] / "adapter")
    with pytest.raises(ValueError, match="has no adapter beside its weights"):
        there.load(folders[0], versions[0])
    stub.takes_adapters = False
    with pytest.raises(ValueError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        there.load(folders[1], versions[1])
    assert there.policy_version == ""
