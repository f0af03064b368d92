"""Rollouts from `vllm serve`: what is sent and made of answers, against a plain HTTP server."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import DEMO

from icpo_core.common.files import model_digest
from icpo_core.config import EngineSection, load
from icpo_core.engine.kinds import server
from icpo_core.engine.kinds.base import Request
from icpo_core.engine.kinds.server import EndpointError, ServedEngine
from icpo_core.store import tables
from icpo_core.workers.placement import place


class Stub(http.server.ThreadingHTTPServer):
    """Answers as it is told to; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failing = 0
        self.refused: dict[str, str] = {}
        self.cold = 0.0
        self.prompt_logprob = -0.5

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        self.server.asked.append((self.path, body))
        if self.server.failing:
            self.server.failing -= 1
            self.reply(503, {"error": "busy"})
        elif (method := body.get("method")) in self.server.refused:
            self.reply(500, {"error": self.server.refused[method]})
        elif self.path == "/inference/v1/generate":
            params = body["sampling_params"]
            logprob = self.server.cold if params["temperature"] < 0.1 else -0.5
            ids = [7] * min(params["max_tokens"], len(body["token_ids"]))
            content = [{"token_id": one, "logprob": logprob} for one in ids]
            choice = {"token_ids": ids, "logprobs": {"content": content}, "finish_reason": "length"}
            scores = [
                {str(one): {"logprob": self.server.prompt_logprob}} for one in body["token_ids"]
            ]
            self.reply(200, {"choices": [choice], "prompt_logprobs": [None, *scores[1:]]})
        else:
            self.reply(200, {"success": True})

    def reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.01)
    with Stub() as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield there
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
    with pytest.raises(ValueError, match="holds weights"):
        there.load(small / "base", "another")
    for method in ("reload_weights", "repack"):
        stub.refused = {method: "no such path"}
        with pytest.raises(ValueError, match=f"refused {method} .*must see this path"):
            there.load(small / "base", version)
        assert there.policy_version == ""
    stub.refused = {}
    there.load(small / "base", version)
    assert there.policy_version == version


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


def test_configuration(small: Path) -> None:
    with pytest.raises(ValueError, match="must begin with http"):
        load(DEMO, ['rollout.endpoints=["gpu-1:8000"]'])
    with pytest.raises(ValueError, match=r"leave out rollout\.engines"):
        load(DEMO, ['rollout.endpoints=["http://a:1"]', "rollout.engines=2"])
    config = load(DEMO, ['rollout.endpoints=["http://a:1"]', "update.ranks=0"])
    found = place(config, ["0", "1"], {})
    assert (found.engines, found.trainer, found.shared) == ([], ["0", "1"], False)
