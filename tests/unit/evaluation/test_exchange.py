"""Samples in the files of lighteval, lm-eval and inspect, there and back, and theirs judged."""

import json
from pathlib import Path

import datasets
import inspect_log
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stub_engines import StubEngines

from icpo.flows.cli import main
from icpo_core.evaluation import exchange
from icpo_core.evaluation.benchmarks import Benchmark, read
from icpo_core.evaluation.evaluator import Evaluation, Evaluator
from icpo_core.evaluation.samples import keys_of
from icpo_core.evaluation.target import Target
from icpo_core.grading.pool import Judges
from icpo_core.run.evaluations import target
from icpo_core.store import tables


@pytest.fixture(scope="module")
def base(small: Path) -> Target:
    return target(str(small / "base"))


@pytest.fixture(scope="module")
def judges(small_protocol):
    with Judges(1, 5.0, 512, small_protocol.grading, "math") as started:
        yield started


@pytest.fixture(scope="module")
def made(
    small_protocol, small, base, judges, tmp_path_factory
) -> tuple[Evaluation, pa.Table, Benchmark]:
    folder = tmp_path_factory.mktemp("evaluations")
    rows = [
        {"id": "first", "problem": "1+1", "answer": "2"},
        {"id": "second/ü", "problem": "1/2 or?", "answer": '["1/2", "0.5"]'},
        {"id": "third", "problem": "2*3", "answer": "6"},
    ]
    file = folder / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench = read("sums", str(file))
    own = small_protocol.sampling.model_copy(update={"samples": 4})
    rules = small_protocol.model_copy(update={"sampling": own, "benchmarks": {}})
    with Evaluator(folder, rules, lambda *_: None) as evaluator:
        engines = StubEngines(lambda asked, index: (asked["place"] + index) % 5)
        evaluator.engines = lambda _: engines
        evaluator.judges = lambda _: judges
        done = evaluator.evaluate(base, bench)
        return done, evaluator.questions(base, bench), bench


def verdicts(table: pa.Table) -> dict:
    return dict(zip(keys_of(table), table["status"].to_pylist(), strict=True))


@pytest.mark.parametrize("kind", exchange.FORMATS)
def test_there_and_back_the_verdicts_are_the_same(made, judges, tmp_path, kind):
    done, questions, _ = made
    path = exchange.write(kind, done, questions, tmp_path)
    assert path == exchange.write(kind, done, questions, tmp_path)
    found, problems = exchange.read(path)
    assert (found, [one.id for one in problems]) == (kind, ["first", "second/ü", "third"])
    golds = dict(
        zip(questions["prompt_id"].to_pylist(), questions["gold"].to_pylist(), strict=True)
    )
    prompts = questions["prompt"].to_pylist()
    assert [one.prompt for one in problems] == prompts
    assert [one.gold for one in problems] == [golds[one.id] for one in problems]
    ours = {
        (row["prompt_id"], row["sample_index"]): row
        for row in done.read(*tables.TABLES["samples"].names).to_pylist()
    }
    for one in problems:
        mine = [ours[one.id, at] for at in range(4)]
        assert one.responses == tuple(row["response"] for row in mine)
        assert one.scores == {"icpo": sum(row["reward"] for row in mine) / 4}
        if kind != "lighteval":  # whose files do not tell
            assert one.cut == tuple(row["finish_reason"] == "length" for row in mine)
    samples, _ = exchange.judged("sums", problems, judges)
    again = verdicts(samples)
    assert len(set(again.values())) >= 3
    for key, row in ours.items():
        if kind != "lighteval" or row["finish_reason"] != "length":
            assert again[key] == row["status"], key


def test_lighteval_s_columns_load_as_a_data_set(made, tmp_path):
    done, questions, _ = made
    path = exchange.write("lighteval", done, questions, tmp_path / "details")
    assert path.name.startswith("details_sums|0_")
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.column_names == ["doc", "metric", "model_response"]
    assert rows[1]["doc"]["choices"] == ["1/2", "0.5"]


def test_lighteval_itself_makes_its_objects_of_them(made, tmp_path):
    requests = pytest.importorskip("lighteval.tasks.requests", reason="lighteval is not installed")
    from lighteval.models.model_output import ModelResponse

    done, questions, _ = made
    path = exchange.write("lighteval", done, questions, tmp_path)
    for row in pq.read_table(path).to_pylist():
        doc, said = requests.Doc(**row["doc"]), ModelResponse(**row["model_response"])
        assert doc.get_golds() == row["doc"]["choices"]
        assert said.final_text == row["model_response"]["text"]


def test_lm_eval_s_own_fields_are_all_there(made, tmp_path):
    schema = pytest.importorskip("lm_eval.result_schema", reason="lm-eval is not installed")
    done, questions, _ = made
    lines = exchange.write("lm-eval", done, questions, tmp_path).read_text("utf-8").splitlines()
    for line in map(json.loads, lines):
        assert set(schema.SampleResult.__annotations__) <= set(line)


def test_inspect_itself_reads_the_log(made, tmp_path):
    """In an environment of its own; one that it wrote is judged here."""
    done, questions, _ = made
    path = exchange.write("inspect", done, questions, tmp_path)
    found = inspect_log.opened(path, tmp_path / "theirs.json")
    assert (found["status"], found["task"], found["listed"]) == ("success", "sums", ["sums"])
    assert found["accuracy"] == done.figures["accuracy"]
    rewards = {
        (row["prompt_id"], row["sample_index"] + 1): row["reward"]
        for row in done.rewards.to_pylist()
    }
    assert {(name, epoch) for name, epoch, *_ in found["samples"]} == set(rewards)
    for name, epoch, value, completion, last in found["samples"]:
        assert value == "CI"[rewards[name, epoch] == 0]
        assert completion == last
    assert exchange.read(tmp_path / "theirs.json") == exchange.read(path)


THEIRS = {
    # lm-eval, task gsm8k: two filters, gold behind ####.
    "samples_gsm8k.jsonl": [
        {
            "doc_id": at, "doc": {"question": "?", "answer": f"add\n#### {gold}"},
            "target": f"add\n#### {gold}", "resps": [[text]], "filtered_resps": [shown],
            "arguments": {"gen_args_0": {"arg_0": "Q: ?\nA:", "arg_1": {"until": ["Q:"]}}},
            "filter": name, "metrics": ["exact_match"], "doc_hash": "", "prompt_hash": "",
            "target_hash": "", "exact_match": value,
        }
        for at, (gold, text) in enumerate([("1,200", "It is 1200."), ("8", "#### 8"), ("3", "4")])
        for name, shown, value in [("strict-match", "x", float(at == 1)), ("flexible", "y", 0.0)]
    ],
    # inspect: messages, content in parts, reasoning beside.
    "log.json": {
        "version": 2, "status": "success",
        "samples": [
            {
                "id": 1, "epoch": epoch, "target": "\\frac{1}{2}",
                "input": [
                    {"role": "system", "content": "Be short"}, {"role": "user", "content": "?"},
                ],
                "output": {"model": "m", "choices": [{"stop_reason": end, "message": {
                    "role": "assistant", "content": [
                        {"type": "reasoning", "reasoning": "\\boxed{7}"},
                        {"type": "text", "text": text},
                    ],
                }}]},
                "scores": {"match": {"value": value, "answer": "0.5"}},
            }
            for epoch, text, end, value in [
                (1, "\\boxed{0.5}", "stop", "C"), (2, "\\boxed{2}", "stop", "I"),
                (3, "\\boxed{0.5}", "max_tokens", "I"), (4, "\\boxed{1/2}", "stop", "I"),
            ]
        ],
    },
}  # fmt: skip


def test_theirs_are_judged_here(tmp_path, capsys):
    lines, log = tmp_path / "samples_gsm8k.jsonl", tmp_path / "log.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in THEIRS[lines.name]))
    log.write_text(json.dumps(THEIRS[log.name]))
    old = tmp_path / "details_old.parquet"
    row = {
        "example": "?", "full_prompt": "What?", "predictions": ["\\boxed{B}"], "gold": ["B"],
        "metrics": {"acc": 0.0},
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), old)
    with pytest.raises(SystemExit) as stop:
        main(["judge", str(lines), str(log), str(old), "--json"])
    out = json.loads(capsys.readouterr().out)
    assert not stop.value.code
    first, second, third = out
    assert (first["format"], first["problems"]) == ("lm-eval", 3)
    assert first["theirs"] == {
        "exact_match,strict-match": pytest.approx(1 / 3), "exact_match,flexible": 0.0,
    }  # fmt: skip
    assert first["ours"]["math"]["accuracy"] == pytest.approx(2 / 3)
    assert first["ours"]["math"]["apart"]["exact_match,strict-match"] == ["0"]
    assert (second["theirs"], second["ours"]["math"]["accuracy"]) == ({"match": 0.25}, 0.5)
    assert (third["format"], third["ours"]["math"]["accuracy"]) == ("lighteval", 1.0)


def test_what_is_none_of_these_is_one_line(tmp_path, made):
    empty = tmp_path / "x.jsonl"
    empty.write_text('{"a": 1}\n')
    packed = tmp_path / "x.eval"
    packed.write_bytes(b"PK")
    for path, message in [
        (tmp_path / "no.json", "no such file"),
        (empty, "is no lighteval details"),
        (packed, "inspect log convert"),
    ]:
        with pytest.raises(ValueError, match=message):
            exchange.read(path)
    _, _, bench = made
    with pytest.raises(ValueError, match="choose of lighteval, lm-eval, inspect"):
        exchange.require(["opencompass"], bench)
    private = Benchmark("gpqa-diamond", bench.problems, "math", private=True)
    with pytest.raises(ValueError, match="ask not to publish"):
        exchange.require(["inspect"], private)


SAMPLE = '{"samples":[{"id":1,"target":"2","input":"q","output":{"choices":%s},"scores":%s}]}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b"5\n"),
        ("x.jsonl", b"\xff\xfe\x00"),
        ("x.json", b"[1, 2]"),
        ("x.json", b'{"samples": {"a": 1}}'),
        ("x.json", b"[" * 100_000),
        ("x.json", (SAMPLE % ("[]", "{}")).encode()),
        ("x.json", (SAMPLE % ('[{"message":{"content":"2"}}]', "[1]")).encode()),
        ("x.parquet", b"PAR1"),
    ],
)  # fmt: skip
def test_rubbish_is_one_line_that_names_the_file(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no lighteval details") as refused:
        exchange.read(path)
    assert str(refused.value).startswith(str(path))
