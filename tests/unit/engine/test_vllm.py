"""vLLM without starting it: what is used of it, and what it is started with."""

import ast
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from icpo_core.engine.kinds import vllm

# What `icpo_core/engine` uses, by source file: names, a class's members, a function's arguments.
# `*` is every argument of a class's or a function's own.
USED = {
    "entrypoints/llm.py": {
        "LLM.__init__": "model tensor_parallel_size dtype gpu_memory_utilization "
        "enforce_eager seed skip_tokenizer_init hf_overrides",
        "LLM.enqueue": "prompts sampling_params lora_request use_tqdm",
        "LLM.collective_rpc": "method kwargs",
        "LLM.sleep": "level",
        "LLM.wake_up": "tags",
        "LLM.reset_prefix_cache": "",
    },
    "engine/arg_utils.py": {
        "EngineArgs": "max_model_len max_num_seqs enable_prefix_caching logprobs_mode "
        "generation_config worker_extension_cls disable_log_stats enable_sleep_mode "
        "enable_chunked_prefill max_num_batched_tokens enable_lora max_lora_rank max_loras "
        "lora_target_modules",
    },
    "sampling_params.py": {
        "SamplingParams": "temperature top_p top_k max_tokens seed logprobs prompt_logprobs "
        "flat_logprobs detokenize stop_token_ids ignore_eos",
    },
    "logprobs.py": {"FlatLogprobs": "logprobs start_indices token_ids"},
    "inputs/llm.py": {"TokensPrompt": "prompt_token_ids"},
    "lora/request.py": {"LoRARequest": "lora_name lora_int_id lora_path"},
    "outputs.py": {
        "RequestOutput.__init__": "request_id prompt_logprobs outputs finished",
        "CompletionOutput": "token_ids logprobs finish_reason",
    },
    "v1/engine/llm_engine.py": {
        "LLMEngine": "has_unfinished_requests step add_lora remove_lora",
        "LLMEngine.add_lora": "lora_request",
        "LLMEngine.remove_lora": "lora_id",
    },
    "platforms/interface.py": {"Platform": "is_cpu is_sleep_mode_available"},
    "config/model.py": {"ModelConfig": "head_dtype model model_weights revision dtype"},
    "config/compilation.py": {"CompilationConfig": "static_forward_context"},
    "v1/worker/gpu_worker.py": {"Worker": "reload_weights"},
    "v1/worker/gpu/model_runner.py": {"GPUModelRunner": "reload_weights"},
    "v1/worker/gpu_model_runner.py": {"GPUModelRunner.reload_weights": "weights_path"},
    "model_executor/model_loader/__init__.py": {"get_model_loader": "load_config"},
    "model_executor/model_loader/default_loader.py": {
        "DefaultModelLoader.get_all_weights": "model_config model"
    },
    "model_executor/model_loader/utils.py": {"initialize_model": "vllm_config model_config"},
    "model_executor/layers/utils.py": {"dispatch_cpu_unquantized_gemm": "layer remove_weight"},
    "utils/torch_utils.py": {"set_default_torch_dtype": "dtype"},
    "envs.py": {"": "VLLM_BATCH_INVARIANT VLLM_ENABLE_V1_MULTIPROCESSING VLLM_RPC_BASE_PATH"},
    "entrypoints/serve/dev/rpc/api_router.py": {"": "/collective_rpc"},
    "entrypoints/serve/dev/cache/api_router.py": {"": "/reset_prefix_cache"},
    "entrypoints/serve/lora/api_router.py": {"": "/v1/load_lora_adapter /v1/unload_lora_adapter"},
    "entrypoints/scale_out/token_in_token_out/api_router.py": {"": "/inference/v1/generate"},
}


def sources() -> list[Path]:
    """vLLM's own files here, and those of other releases that `VLLM_SOURCES` names, unpacked."""
    found = find_spec("vllm")
    here = [Path(next(iter(found.submodule_search_locations or [])))] if found else []
    return [*here, *map(Path, filter(None, os.environ.get("VLLM_SOURCES", "").split(":")))]


def names(tree: ast.Module, wanted: str) -> set[str] | None:
    """Members of a class, arguments of a function or a method, or all texts and names of a file;
    None: there is no such thing."""
    if not wanted:
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        return {text for text in texts if isinstance(text, str)}
    found: ast.AST = tree
    for part in wanted.split("."):
        inside = [n for n in ast.walk(found) if getattr(n, "name", None) == part]
        if not inside:
            return None
        found = inside[0]
    if isinstance(found, ast.FunctionDef):
        return {one.arg for one in [*found.args.args, *found.args.kwonlyargs]}
    assert isinstance(found, ast.ClassDef)
    members = {n.name for n in found.body if isinstance(n, ast.FunctionDef)}
    fields = {n.target for n in ast.walk(found) if isinstance(n, ast.AnnAssign)}
    return members | {
        n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "") for n in fields
    }


@pytest.mark.skipif(not sources(), reason="there is no vLLM here")
@pytest.mark.parametrize("folder", sources(), ids=str)
def test_what_is_used_of_vllm_is_there(folder: Path) -> None:
    missing = []
    for file, uses in USED.items():
        if not (folder / file).is_file():
            missing.append(file)
            continue
        tree = ast.parse((folder / file).read_text())
        for wanted, used in uses.items():
            there = names(tree, wanted)
            if there is None:
                missing.append(f"{file}: {wanted}")
            else:
                missing += [f"{file}: {wanted} {one}" for one in used.split() if one not in there]
    assert missing == []


@pytest.mark.parametrize("device", ["0", ""])
def test_batch_invariance_is_asked_for_where_there_is_a_gpu(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", device)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")  # whose end puts it back
    vllm.make_invariant()
    assert (os.environ["VLLM_BATCH_INVARIANT"] == "1") == bool(device)
    assert ("nothing is switched" in capsys.readouterr().out) == (not device)
