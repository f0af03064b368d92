"""Environment variables that a library refuses, known by name before the library is imported."""

from __future__ import annotations

import pytest

from icpo_core.common.limits import memory
from icpo_core.workers import variables
from icpo_core.workers.environment import for_workers

REFUSED = {
    "VLLM_CPU_KVCACHE_SPACE": ["lots", "", str(memory())],
    "VLLM_LOGGING_LEVEL": ["FOO"],
    "VLLM_LOGGING_CONFIG_PATH": ["/nowhere/logging.json"],
    "VLLM_CONFIGURE_LOGGING": ["yes"],
    "VLLM_PORT": ["eighty"],
    "VLLM_WORKER_MULTIPROC_METHOD": ["thread"],
    "VLLM_ENABLE_V1_MULTIPROCESSING": ["no"],
}
TAKEN = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "debug", "VLLM_PORT": "4000",
    "VLLM_API_KEY": "secret", "VLLM_OF_ANOTHER_DAY": "x", "LOCAL_RANK": "x", "NO_COLOR": "please",
    "TORCH_HOME": "/nowhere",
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, all_ in REFUSED.items() for v in all_])
def test_vllm_refuses_it(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"^{name}[:=].*; fix it or unset it$") as raised:
        variables.require_of_vllm()
    assert "\n" not in str(raised.value)


def test_what_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TAKEN.items():
        monkeypatch.setenv(name, value)
    variables.require_of_vllm()
    variables.require_of_torch()


def test_torch_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "x")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    with pytest.raises(ValueError, match=r"^TORCH_DISTRIBUTED_DEBUG: .* must be OFF, INFO"):
        variables.require_of_torch()


def test_a_service_of_kubernetes_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PORT", "tcp://10.0.0.1:8000")
    assert "VLLM_PORT" not in for_workers()
    variables.require_of_vllm()


def test_a_library_that_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="soon") as raised:
        exec(compile("int('soon')", "module", "exec"))
    said = variables.at_an_import(raised.value)
    assert said is not None
    assert said.startswith("HF_HUB_DOWNLOAD_TIMEOUT: invalid literal")
    with pytest.raises(ValueError, match="soon") as raised:
        int("soon")
    assert variables.at_an_import(raised.value) is None
