"""The small base model: made from nothing, in minutes, on two cores.

    python -m icpo.data.base_model --out data/small/base [--seed 0] [--threads 2]

A Qwen3 of 0.6 M parameters over single characters learns the problems of `icpo.data.arithmetic` by
supervised learning. Half of its rows show one worked demonstration and answer with a worked
solution; half show the bare problem and answer directly, save for a very few worked ones. So it
works a problem out when it is shown how, and almost never does so by itself: the situation in which
ICPO has something to teach. "Almost" matters. Where a worked solution under the bare prompt has a
probability near 5e-4, implicit expert forcing steers the model within tens of iterations; at 1e-7
the shaped gradient of the expert rollouts vanishes and nothing learns.

The prompts, exactly (`icpo.data.arithmetic.bare_prompt` and `one_shot_prompt`)::

    Q:{problem}\\nA:
    Q:{demonstration}\\nA:{worked solution}\\n\\nQ:{problem}\\nA:

A response is a worked solution or a direct answer, then ``<eos>``. There is no beginning-of-text
token. The tokenizer's chat template renders one user message C with a generation prompt as
``Q:C\\nA:``, so the chat format of a bare problem is the bare prompt, and a user, assistant, user
exchange is the one-shot prompt. It refuses system messages, which the model has never seen.

Problems of the three shipped sets are never trained on. The script ends by measuring the model as
saved, prints three figures and writes them to ``recipe.json``:

- zero-shot accuracy, one-shot accuracy: at temperature 1, on the held-out set. The first is exact
  (the probability of the right direct answer or worked solution), the second is sampled.
- worked probability: of the right worked solution, to its end, under the bare prompt; the mean over
  the held-out set, by teacher forcing.

Shape legend: R rows, B rows of a block, T tokens, A answer tokens, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from icpo.data.arithmetic import (
    bare_prompt,
    direct_answer,
    draw,
    one_shot_prompt,
    problem_sets,
    worked_solution,
)

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
CHARACTERS = "\n" + "".join(chr(code) for code in range(0x20, 0x7F))
CONTEXT = 1024
IGNORED = -100

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'Q:' + message['content'] + '\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'A:' + message['content'] + '\\n\\n' -}}
{%- else -%}
{{- raise_exception('this model knows only user and assistant messages') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'A:' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Phase:
    """A stretch of training: `steps` batches, one learning-rate cycle that peaks at `peak_rate`."""

    steps: int
    peak_rate: float
    worked_share: float
    """Share of the zero-shot rows that answer with a worked solution."""


PHASES = (Phase(1500, 2e-3, 0.01), Phase(300, 5e-4, 0.001))
BATCH = 64


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: newline and printable ASCII, after ``<pad>``, ``<eos>``, ``<unk>``."""
    ids = {token: index for index, token in enumerate([PAD, EOS, UNK, *CHARACTERS])}
    # A BPE without merges splits into single characters and needs no pre-tokenizer.
    core = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=UNK))
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained model in float32, drawn from torch's global generator."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )
    return model


@dataclass(frozen=True)
class Rows:
    """Token rows to learn from, padded on the right."""

    ids: torch.Tensor
    """(R, T) int64; padding is ``<pad>``."""
    labels: torch.Tensor
    """(R, T) int64; the answer and its ``<eos>``, everything else `IGNORED`."""
    lengths: torch.Tensor
    """(R,) int64; tokens before the padding."""


def make_rows(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> Rows:
    """Encode (prompt, answer) pairs of characters from `CHARACTERS`, ``<eos>`` added.

    Goes through a byte table instead of the tokenizer: one token a character makes them the same,
    and this takes a second where the tokenizer takes a minute.
    """
    table = np.zeros(128, dtype=np.int64)
    for character in CHARACTERS:
        table[ord(character)] = tokenizer.convert_tokens_to_ids(character)
    prompts = np.array([len(prompt) for prompt, _ in pairs])
    lengths = prompts + np.array([len(answer) for _, answer in pairs]) + 1
    place = np.arange(lengths.max())
    ids = np.full((len(pairs), len(place)), tokenizer.pad_token_id, dtype=np.int64)
    text = "".join(prompt + answer for prompt, answer in pairs).encode("ascii")
    ids[place < lengths[:, None] - 1] = table[np.frombuffer(text, dtype=np.uint8)]
    ids[np.arange(len(pairs)), lengths - 1] = tokenizer.eos_token_id
    answered = (place >= prompts[:, None]) & (place < lengths[:, None])
    labels = np.where(answered, ids, IGNORED)
    return Rows(torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(lengths))


def training_problems(seed: int) -> list[str]:
    """The distinct problems of a whole training run, none of them in a shipped set."""
    shipped = [problem for problems in problem_sets().values() for problem in problems]
    # Two problems in a one-shot row and one in a zero-shot row.
    count = sum(phase.steps for phase in PHASES) * BATCH // 2 * 3
    return draw(count, seed, exclude=shipped)


def make_phase(
    tokenizer: PreTrainedTokenizerFast, phase: Phase, problems: Iterator[str]
) -> tuple[Rows, Rows]:
    """The one-shot and the zero-shot rows of a phase, half of each batch from either."""
    count = phase.steps * BATCH // 2
    one_shot = []
    for _ in range(count):
        demonstration, problem = next(problems), next(problems)
        one_shot.append((one_shot_prompt(demonstration, problem), worked_solution(problem)))
    # Worked rows are spread evenly instead of drawn, for the last phase holds about ten of them
    # and their number decides how likely the model is to work a bare problem out.
    every = round(1 / phase.worked_share)
    zero_shot = []
    for row in range(count):
        problem = next(problems)
        worked = row % every == every // 2
        answer = worked_solution(problem) if worked else direct_answer(problem)
        zero_shot.append((bare_prompt(problem), answer))
    return make_rows(tokenizer, one_shot), make_rows(tokenizer, zero_shot)


def block_loss(model: Qwen3ForCausalLM, rows: Rows, block: slice) -> tuple[torch.Tensor, int]:
    """Cross entropy summed over the answer tokens of a block of rows (B, T), and their number A."""
    width = int(rows.lengths[block].max())
    ids_B_T, labels_B_T = rows.ids[block, :width], rows.labels[block, :width]
    # Padding is on the right and attention is causal, so no answer token sees any of it.
    hidden_B_T = model.model(input_ids=ids_B_T, use_cache=False).last_hidden_state
    targets_B_T = labels_B_T[:, 1:]
    answered_B_T = targets_B_T != IGNORED
    logits_A_V = model.lm_head(hidden_B_T[:, :-1][answered_B_T])
    targets_A = targets_B_T[answered_B_T]
    loss = torch.nn.functional.cross_entropy(logits_A_V, targets_A, reduction="sum")
    return loss, targets_A.numel()


def train(model: Qwen3ForCausalLM, phase: Phase, one_shot: Rows, zero_shot: Rows) -> None:
    """Train in place for one phase; the loss is the mean over all answer tokens of a batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.peak_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=phase.peak_rate, total_steps=phase.steps
    )
    started = time.monotonic()
    for step in range(phase.steps):
        block = slice(step * BATCH // 2, (step + 1) * BATCH // 2)
        worked, worked_tokens = block_loss(model, one_shot, block)
        direct, direct_tokens = block_loss(model, zero_shot, block)
        optimizer.zero_grad()
        ((worked + direct) / (worked_tokens + direct_tokens)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == phase.steps - 1:
            print(
                f"step {step + 1}/{phase.steps}"
                f"  one-shot {worked.item() / worked_tokens:.4f}"
                f"  zero-shot {direct.item() / direct_tokens:.4f} nats a token"
                f"  {time.monotonic() - started:.0f} s",
                flush=True,
            )


@dataclass(frozen=True)
class Figures:
    """What the model does on the held-out problems at temperature 1; shares between 0 and 1."""

    zero_shot_accuracy: float
    """Mean probability of the right direct answer or worked solution under the bare prompt."""
    one_shot_accuracy: float
    """Share of sampled responses that end in the right boxed answer after one demonstration."""
    worked_probability: float
    """Mean probability of the right worked solution under the bare prompt."""
    first_token_not_backslash: float
    """Mean probability that a response to the bare prompt does not open with the box."""


@torch.inference_mode()
def answer_probability(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]
) -> torch.Tensor:
    """Probability (R,) of each answer and its ``<eos>`` after its prompt, by teacher forcing."""
    rows = make_rows(tokenizer, pairs)
    logprobs_R_T_V: torch.Tensor = model(input_ids=rows.ids).logits[:, :-1].float().log_softmax(-1)
    targets_R_T = rows.labels[:, 1:]
    picked_R_T = logprobs_R_T_V.gather(-1, targets_R_T.clamp(min=0)[..., None])[..., 0]
    return picked_R_T.masked_fill(targets_R_T == IGNORED, 0).sum(-1).exp()


@torch.inference_mode()
def sample(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> list[str]:
    """One response a prompt at temperature 1, from torch's global generator; prompts of a length.

    Ends at ``<eos>``, which is left out, or after 64 tokens.
    """
    ids_R_T = torch.tensor([tokenizer.encode(prompt) for prompt in prompts])
    output = model.generate(  # type: ignore[misc]  # transformers types `self` as a protocol
        ids_R_T, attention_mask=torch.ones_like(ids_R_T), do_sample=True, max_new_tokens=64
    )
    return tokenizer.batch_decode(output[:, ids_R_T.shape[1] :], skip_special_tokens=True)


def measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[str],
    demonstrations: list[str],
) -> Figures:
    """Measure on `problems`; the i-th is shown the i-th demonstration for its one-shot prompt."""
    model.eval()
    bare = [bare_prompt(problem) for problem in problems]
    direct = answer_probability(
        model, tokenizer, [(x, direct_answer(p)) for x, p in zip(bare, problems, strict=True)]
    )
    worked = answer_probability(
        model, tokenizer, [(x, worked_solution(p)) for x, p in zip(bare, problems, strict=True)]
    )
    with torch.inference_mode():
        bare_ids = torch.tensor([tokenizer.encode(x) for x in bare])
        first_R_V = model(input_ids=bare_ids).logits[:, -1].float().softmax(-1)
    shown = demonstrations[: len(problems)]
    responses = sample(
        model,
        tokenizer,
        [one_shot_prompt(d, p) for d, p in zip(shown, problems, strict=True)],
    )
    right = [r.endswith(direct_answer(p)) for r, p in zip(responses, problems, strict=True)]
    backslash = tokenizer.convert_tokens_to_ids("\\")
    return Figures(
        zero_shot_accuracy=(direct + worked).mean().item(),
        one_shot_accuracy=sum(right) / len(right),
        worked_probability=worked.mean().item(),
        first_token_not_backslash=(1 - first_R_V[:, backslash]).mean().item(),
    )


def main() -> None:
    """Train, save, measure what was saved, and write the recipe beside it."""
    parser = argparse.ArgumentParser(description="Make the small base model from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    started = time.monotonic()

    problems = iter(training_problems(arguments.seed))
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    phases = [(phase, *make_phase(tokenizer, phase, problems)) for phase in PHASES]
    print(f"{model.num_parameters():,} parameters; rows after {time.monotonic() - started:.1f} s")
    for phase, one_shot, zero_shot in phases:
        train(model, phase, one_shot, zero_shot)

    arguments.out.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    # Measured as saved, rounded to bfloat16, but computed in float32.
    saved = Qwen3ForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    sets = problem_sets()
    figures = measure(saved, tokenizer, sets["heldout"], sets["demonstrations"])
    recipe = {
        "figures": asdict(figures),
        "held_out_problems": len(sets["heldout"]),
        "seed": arguments.seed,
        "threads": arguments.threads,
        "batch": BATCH,
        "phases": [asdict(phase) for phase in PHASES],
        "parameters": saved.num_parameters(),
        "seconds": round(time.monotonic() - started),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
    }
    (arguments.out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    for name, value in asdict(figures).items():
        print(f"{name} {value:.6f}")


if __name__ == "__main__":
    main()
