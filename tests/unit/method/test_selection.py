"""Reject sampling, bonus and the batch: nothing is lost, and every row says why."""

import numpy as np
import pyarrow as pa
import pytest
from groups import KEYS, expert, keys, policy, reasons, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from icpo_core.config import SelectSection
from icpo_core.method.advantages import advantages
from icpo_core.method.diagnostics import Diversity
from icpo_core.method.overlong import penalty
from icpo_core.method.rows import outline
from icpo_core.method.selection import Selection, choose, select, tables_of
from icpo_core.store import tables as schemas
from icpo_core.store.batch import order

MODES = ["drop", "replace", "mask", "off"]
BOTH = ("batch", "rejects")


def run(
    *groups: list[dict],
    iteration: int = 1,
    seed: int = 0,
    max_tokens: int | None = None,
    **switches,
) -> Selection:
    section = SelectSection(**switches)
    return select(*tables(*groups), section, iteration, seed, max_tokens=max_tokens)


rows = st.fixed_dictionaries(
    {
        "reward": st.sampled_from([0.0, 1.0]),
        "origin": st.sampled_from(["on_policy", "on_policy", "on_policy", "expert", "trace"]),
        "tokens": st.sampled_from([0, 1, 2, 3]),
    },
    optional={
        "status": st.sampled_from(["timeout", "error"]),
        "finish": st.sampled_from(["stop", "length"]),
    },
)
problems = st.lists(st.lists(rows, max_size=9), min_size=1, max_size=5).filter(
    lambda groups: any(groups)
)


@settings(max_examples=80, deadline=None)
@given(problems, st.sampled_from(MODES), st.integers(1, 4), st.randoms())
def test_the_number_of_parts_changes_no_row(groups, errs, count, draw) -> None:
    """Parts hold whole groups, whichever, in whatever order their rows are."""
    prompts, rollouts, verdicts = tables(*groups)
    section = SelectSection(errs=errs, bonus="linear", horizon=9, truncated="mask")
    whole = select(prompts, rollouts, verdicts, section, 3, 0)
    part_of = {f"p{number}": draw.randrange(count) for number in range(len(groups))}
    mine = [part_of[name] for name in rollouts["prompt_id"].to_pylist()]
    parts = []
    for part in range(count):
        at = [row for row, one in enumerate(mine) if one == part]
        draw.shuffle(at)
        parts.append(rollouts.take(pa.array(at, pa.int64())))
    outlines = pa.concat_tables([outline(part) for part in parts])
    chosen = choose(prompts, outlines, verdicts, section, 3, 0)
    diversity, found, first = Diversity(chosen.rows), [], 0
    for part in parts:
        made = tables_of(chosen, prompts, part, first=first)
        found.append([schemas.check(n, t, "") for n, t in zip(BOTH, made, strict=True)])
        diversity.add(part["response_ids"], first)
        first += part.num_rows
    batch, rejects = map(pa.concat_tables, zip(*found, strict=True))
    assert batch.take(order(batch)).drop_columns(["place"]).equals(whole.batch)
    ranked = [(name, "ascending") for name in KEYS]
    assert rejects.sort_by(ranked).equals(whole.rejects.sort_by(ranked))
    alone = Diversity(whole.rows)
    alone.add(rollouts["response_ids"])
    assert chosen.summary == whole.summary
    assert diversity.value() == alone.value()


@settings(max_examples=150, deadline=None)
@given(problems, st.sampled_from(MODES), st.sampled_from(["off", "linear"]), st.integers(1, 9))
def test_rollouts_are_batch_and_rejects(groups, errs, bonus, iteration):
    prompts, rollouts, verdicts = tables(*groups)
    out = select(
        prompts, rollouts, verdicts, SelectSection(errs=errs, bonus=bonus, horizon=8), iteration, 3
    )
    assert sorted(keys(out.batch) + keys(out.rejects)) == sorted(keys(rollouts))
    schemas.check("batch", out.batch, "batch")
    schemas.check("rejects", out.rejects, "rejects")
    assert {*out.rejects["reason"].to_pylist()} <= {*schemas.RejectReason}
    summary = out.summary
    assert summary["rows/rollouts"] == rollouts.num_rows
    assert summary["rows/batch"] == out.batch.num_rows
    assert sum(v for k, v in summary.items() if k.startswith("rejects/")) == out.rejects.num_rows
    # Each batch row is its own rollout, with its own tokens, under the bare prompt.
    known = dict(zip(keys(rollouts), rollouts.to_pylist(), strict=True))
    bare = dict(
        zip(prompts["prompt_id"].to_pylist(), prompts["policy_prompt_ids"].to_pylist(), strict=True)
    )
    for key, row in zip(keys(out.batch), out.batch.to_pylist(), strict=True):
        assert row["response_ids"] == known[key]["response_ids"] != []
        assert row["behaviour_logprobs"] == known[key]["logprobs"]
        assert row["prompt_ids"] == bare[row["prompt_id"]]
        assert row["shaped_reward"] == pytest.approx(row["reward"] + row["bonus"])
    # Advantages: of the batch alone, but for rows that are masked.
    if errs != "mask":
        again = advantages(
            "group", out.batch["shaped_reward"].to_numpy(), out.batch["prompt_id"].to_pylist()
        )
        np.testing.assert_allclose(out.batch["advantage"].to_numpy(), again, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(problems, st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_order_and_sharding_of_rows_change_nothing(groups, errs, random):
    prompts, rollouts, verdicts = tables(*groups)
    mixed = []
    for table in (rollouts, verdicts):
        order = list(range(table.num_rows))
        random.shuffle(order)
        half = len(order) // 2
        halves = [table.take(pa.array(part, pa.int64())) for part in (order[:half], order[half:])]
        mixed.append(pa.concat_tables(halves))
    section = SelectSection(errs=errs)
    one = select(prompts, rollouts, verdicts, section, 1, 3)
    other = select(prompts, *mixed, section, 1, 3)
    for name in ("batch", "rejects"):
        assert schemas.content_digest(name, getattr(one, name)) == schemas.content_digest(
            name, getattr(other, name)
        )
    assert one.summary == pytest.approx(other.summary)


def test_drop_leaves_the_group():
    out = run(policy(1, 0, 0) + expert(0), policy(0, 0, 0) + expert(1))
    assert reasons(out) == {("p0", 0, "expert"): "below_delta"}
    first, second = out.batch["advantage"].to_numpy()[:3], out.batch["advantage"].to_numpy()[3:]
    np.testing.assert_allclose(first, advantages("group", [1, 0, 0], [0] * 3), rtol=1e-6)
    np.testing.assert_allclose(second, advantages("group", [0, 0, 0, 1], [0] * 4), rtol=1e-6)
    assert out.summary["errs/acceptance"] == 0.5
    assert out.summary["flips"] == 1


def test_mask_counts_without_loss():
    out = run(policy(1, 0, 0) + expert(0), errs="mask")
    assert reasons(out) == {("p0", 0, "expert"): "masked"}
    want = advantages("group", [1, 0, 0, 0], [0] * 4)[:3]
    np.testing.assert_allclose(out.batch["advantage"].to_numpy(), want, rtol=1e-6)


def test_off_lets_wrong_experts_in():
    out = run(policy(1, 1, 1) + expert(0), errs="off")
    assert out.rejects.num_rows == 0
    assert out.batch["advantage"].to_pylist()[3] < -1


@settings(max_examples=60, deadline=None)
@given(problems, st.integers(0, 5))
def test_replace_keeps_the_group_size(groups, seed):
    out = run(*groups, errs="replace", seed=seed)
    for number, group in enumerate(groups):
        usable = [r for r in group if r["tokens"] and "status" not in r]
        on_policy = [r for r in usable if r["origin"] == "on_policy"]
        accepted = [r for r in usable if r["origin"] != "on_policy" and r["reward"] == 1]
        members = [row for row in out.batch.to_pylist() if row["prompt_id"] == f"p{number}"]
        assert len(members) == len(on_policy)
        experts = [row for row in members if row["origin"] != "on_policy"]
        assert len(experts) == min(len(accepted), len(on_policy))


def test_replace_is_random_and_the_same_again():
    group = policy(*[0] * 8) + expert(1)
    replaced = {
        (seed, iteration): run(group, policy(0) + expert(0), errs="replace", seed=seed,
                               iteration=iteration).rejects["sample_index"][0].as_py()
        for seed in range(40) for iteration in (1, 2)
    }  # fmt: skip
    assert {*replaced.values()} == set(range(8))
    assert any(replaced[seed, 1] != replaced[seed, 2] for seed in range(40))
    again = run(group, policy(1, 1) + expert(1), errs="replace", seed=5, iteration=1)
    assert again.rejects["sample_index"][0].as_py() == replaced[5, 1]  # other problems have no say
    pairs = [run(group, group, errs="replace", seed=seed).rejects["sample_index"].to_pylist()
             for seed in range(20)]  # fmt: skip
    assert any(first != second for first, second in pairs)
    spare = run(policy(0) + expert(1, 1), errs="replace")
    assert reasons(spare) == {
        ("p0", 0, "on_policy"): "replaced",
        ("p0", 1, "expert"): "spare_expert",
    }


def test_what_the_judge_does_not_know_is_not_wrong():
    """The trap: a timeout as reward 0 pushes down what may be right."""
    unknown = [{"reward": 0.0, "status": status} for status in ("timeout", "error")]
    unknown.append({"reward": float("nan")})
    out = run(policy(1, 1) + unknown)
    assert [*reasons(out).values()] == ["unjudged"] * 3
    assert out.batch["advantage"].to_pylist() == [0.0, 0.0]
    assert out.summary["reward/on_policy"] == 1.0
    assert out.summary["groups/zero_variance"] == 1
    # A truncated or missing answer is known to be no right one.
    counted = run([*policy(1), {"status": "truncated"}, {"status": "no_answer"}])
    assert counted.rejects.num_rows == 0


def test_empty_responses_are_rejected():
    out = run([*policy(1, 0), {"tokens": 0}])
    assert reasons(out) == {("p0", 2, "on_policy"): "empty"}


@pytest.mark.parametrize(
    ("kind", "factors"), [("linear", (1, 0.5, 0)), ("cosine", (1, 0.5, 0)), ("off", (0, 0, 0))]
)
def test_bonus_follows_the_true_iteration(kind, factors):
    """The trap: t never set, so that γ stays 1, as in the released code."""
    group = policy(1, 0) + expert(1, 0)
    for iteration, factor in zip((1, 5, 9), factors, strict=True):
        out = run(group, bonus=kind, alpha=2.0, horizon=8, iteration=iteration)
        assert out.batch["bonus"].to_pylist() == [0.0, 0.0, 2.0 * factor]
        assert out.batch["shaped_reward"].to_pylist() == [1.0, 0.0, 1.0 + 2.0 * factor]
        assert out.summary["bonus/gamma"] == factor


def test_bonus_is_for_accepted_correct_expert_rollouts():
    group = policy(1) + expert(1, 0) + [{"reward": 1.0, "origin": "trace"}]
    for errs in MODES:
        out = run(group + policy(0, 0, 0), errs=errs, delta=0.5, bonus="linear", horizon=4)
        for row in out.batch.to_pylist():
            right = row["origin"] != "on_policy" and row["reward"] == 1
            assert row["bonus"] == (1.0 if right else 0.0), row
    low = run(policy(1, 0) + expert(0), delta=0.0, bonus="linear", horizon=4)
    assert low.batch["bonus"].to_pylist() == [0.0, 0.0, 0.0]


def solved(iteration: int, **switches) -> Selection:
    """A group of seven right rollouts and a right expert's, which has the bonus."""
    group = policy(*[1] * 7) + expert(1)
    return run(group, bonus="linear", horizon=400, iteration=iteration, **switches)


@pytest.mark.parametrize("iteration", [1, 200, 360])
def test_a_bonus_on_rewards_does_not_anneal_in_a_solved_group(iteration):
    """The paper's formula, literally: the deviation takes the size of the bonus away again."""
    out = solved(iteration)
    want = [-1 / 8**0.5] * 7 + [7 / 8**0.5]
    np.testing.assert_allclose(out.batch["advantage"].to_numpy(), want, rtol=1e-4)
    np.testing.assert_allclose(out.batch["advantage"].to_numpy()[-2:], [-0.354, 2.475], atol=1e-3)
    assert out.summary["bonus/pushed_down"] == 7
    assert out.summary["advantage/solved_share"] == 1.0
    assert out.summary["groups/zero_variance"] == 0


def test_a_bonus_on_rewards_in_the_last_of_400_iterations():
    out = solved(400)
    assert out.batch["bonus"].to_pylist()[-1] == pytest.approx(0.0025)
    advantages_N = out.batch["advantage"].to_numpy()
    np.testing.assert_allclose(advantages_N, [-0.3532] * 7 + [2.4721], atol=5e-5)


def test_a_bonus_on_advantages_anneals():
    for iteration, left in ((1, 1.0), (200, 1 - 199 / 400), (400, 0.0025), (401, 0.0)):
        out = solved(iteration, bonus_on="advantage")
        np.testing.assert_allclose(out.batch["advantage"].to_numpy(), [0.0] * 7 + [left])
        assert out.batch["shaped_reward"].to_pylist() == [1.0] * 8
        assert out.batch["bonus"].to_pylist()[-1] == pytest.approx(left)
        assert out.summary["bonus/pushed_down"] == 0
        assert out.summary["groups/zero_variance"] == 1
        assert out.summary.get("advantage/solved_share") == (1.0 if left else None)


@settings(max_examples=100, deadline=None)
@given(
    problems,
    st.sampled_from(MODES),
    st.sampled_from(["group", "group-mean", "rloo", "maxrl"]),
    st.floats(0.0, 3.0),
    st.integers(1, 10),
)
def test_on_advantages_the_bonus_adds_what_it_is_and_vanishes(
    groups, errs, advantage, alpha, iteration
):
    switches = {"errs": errs, "advantage": advantage, "iteration": iteration}
    without = run(*groups, **switches)
    with_it = run(*groups, bonus="linear", alpha=alpha, horizon=8, bonus_on="advantage", **switches)
    assert keys(with_it.batch) == keys(without.batch)
    assert with_it.batch["shaped_reward"].equals(without.batch["shaped_reward"])
    effect = with_it.batch["advantage"].to_numpy() - without.batch["advantage"].to_numpy()
    bonus = with_it.batch["bonus"].to_numpy()
    np.testing.assert_allclose(effect, bonus, atol=4e-6)  # float32 columns
    assert (bonus <= np.float32(alpha * max(0.0, 1 - (iteration - 1) / 8))).all()
    if iteration > 8:
        assert schemas.content_digest("batch", with_it.batch) == schemas.content_digest(
            "batch", without.batch
        )
    for figure in ("groups/zero_variance", "groups/one_member", "flips", "reward/on_policy"):
        assert with_it.summary.get(figure) == without.summary.get(figure)


def test_the_share_of_solved_groups_is_weighted_by_tokens():
    """The open group has |A| = √½ at each of its five tokens; for the solved one see above."""
    open_ = [{"reward": r, "tokens": t} for r, t in ((1.0, 1), (0.0, 4))]
    out = run(open_, policy(*[1] * 7) + expert(1), policy(1, 1), bonus="linear", horizon=400)
    there = (7 / 8**0.5 + 7 / 8**0.5) * 2
    share = there / (there + 5 * 0.5**0.5)
    assert out.summary["advantage/solved_share"] == pytest.approx(share, rel=1e-4)
    assert out.summary["bonus/pushed_down"] == 7
    later = {"bonus": "linear", "horizon": 4, "iteration": 5}
    plain = run(open_, policy(1, 1) + expert(1), **later)
    assert (plain.summary["advantage/solved_share"], plain.summary["bonus/pushed_down"]) == (0, 0)
    # Problems without a rollout are no groups.
    alone = run([], [], [], [], [], policy(1) + expert(1), bonus="linear", horizon=4)
    assert alone.summary["advantage/solved_share"] == 1.0
    # A wrong rollout that counts leaves the group unsolved.
    mixed = run(policy(1, 1) + expert(1, 0), errs="mask", bonus="linear", horizon=4)
    assert mixed.summary["advantage/solved_share"] == 0


CUT = {"finish": "length", "status": "truncated"}


def test_truncated_rollouts_are_wrong_by_default():
    out = run([*policy(1, 0), CUT])
    assert out.rejects.num_rows == 0
    want = advantages("group", [1, 0, 0], [0] * 3)
    np.testing.assert_allclose(out.batch["advantage"].to_numpy(), want, rtol=1e-6)
    # A run that an earlier version began goes on with the same summaries.
    new = ("overlong/", "advantage/", "rejects/truncated", "bonus/pushed_down")
    assert not [name for name in out.summary if name.startswith(new)]


def test_truncated_rollouts_can_count_without_loss():
    out = run([*policy(1, 0), CUT], truncated="mask")
    assert reasons(out) == {("p0", 2, "on_policy"): "masked"}
    want = advantages("group", [1, 0, 0], [0] * 3)[:2]
    np.testing.assert_allclose(out.batch["advantage"].to_numpy(), want, rtol=1e-6)
    assert out.summary["overlong/masked"] == 1
    # ERRS goes first: an expert rollout that it takes out counts in nothing.
    cut_expert = {**CUT, "origin": "expert"}
    both = run([*policy(1, 0), CUT, cut_expert], truncated="mask")
    assert reasons(both)["p0", 0, "expert"] == "below_delta"
    np.testing.assert_allclose(both.batch["advantage"].to_numpy(), want, rtol=1e-6)
    assert both.summary["overlong/masked"] == 1


def test_truncated_rollouts_can_leave_the_group():
    right_but_cut = {"finish": "length", "reward": 1.0}  # with verify.rules.accept_truncated
    cut_expert = {**CUT, "origin": "expert"}
    out = run([*policy(1, 0), CUT, right_but_cut, cut_expert], truncated="drop")
    assert {*reasons(out).values()} == {"truncated"}
    want = advantages("group", [1, 0], [0] * 2)
    np.testing.assert_allclose(out.batch["advantage"].to_numpy(), want, rtol=1e-6)
    assert (out.summary["rejects/truncated"], out.summary["overlong/right"]) == (3, 1)
    # What nobody judged is unknown first, and no place that an expert could take is left.
    unknown = run([{"finish": "length", "status": "timeout"}, CUT, *expert(1)], truncated="drop",
                  errs="replace")  # fmt: skip
    assert reasons(unknown) == {
        ("p0", 0, "on_policy"): "unjudged",
        ("p0", 1, "on_policy"): "truncated",
        ("p0", 0, "expert"): "spare_expert",
    }


def test_the_soft_penalty_is_dapos():
    """Equation 13 of arXiv 2503.14476 with L_max = 20480, L_cache = 4096."""
    lengths = np.array([1, 16384, 16385, 18432, 20479, 20480, 20481])
    want = [0, 0, -1 / 4096, -0.5, -4095 / 4096, -1, -1]
    np.testing.assert_allclose(penalty(lengths, 20480, 4096), want)
    np.testing.assert_allclose(penalty(lengths, 20480), want)  # a fifth
    assert penalty(np.array([1, 2, 3]), 3).tolist() == [0, 0, -1]


def test_rewards_shaped_by_length():
    rows = [{"reward": 1.0, "tokens": 10}, {"reward": 1.0, "tokens": 4}, {**CUT, "tokens": 12}]
    far = {"origin": "expert", "reward": 1.0, "tokens": 11}
    out = run([*rows, far], truncated="shaped", overlong_tokens=4, max_tokens=12, bonus="linear",
              horizon=4)  # fmt: skip
    shaped = [0.5, 1.0, -1.0, 1.0 + 1.0 - 0.75]
    assert out.batch["shaped_reward"].to_pylist() == shaped
    assert out.batch["reward"].to_pylist() == [1.0, 1.0, 0.0, 1.0]
    want = advantages("group", shaped, [0] * 4)
    np.testing.assert_allclose(out.batch["advantage"].to_numpy(), want, rtol=1e-6)
    assert out.rejects.num_rows == 0  # ERRS asks for the verifier's reward
    assert out.summary["overlong/penalised"] == 3
    assert out.summary["overlong/penalty"] == pytest.approx(-(0.5 + 1 + 0.75) / 4)
    # All right and of different lengths: something can be learned.
    right = run(rows[:2], truncated="shaped", overlong_tokens=4, max_tokens=12)
    assert right.summary["groups/zero_variance"] == 0
    assert right.batch["advantage"].to_pylist()[0] < 0
    with pytest.raises(ValueError, match="max_tokens"):
        run(rows, truncated="shaped")


@settings(max_examples=150, deadline=None)
@given(
    problems,
    st.sampled_from(MODES),
    st.sampled_from(["wrong", "mask", "drop", "shaped"]),
    st.sampled_from(["reward", "advantage"]),
)
def test_no_policy_for_truncated_rollouts_loses_a_row(groups, errs, truncated, bonus_on):
    three = tables(*groups)
    section = SelectSection(errs=errs, truncated=truncated, bonus="cosine", horizon=9,
                            bonus_on=bonus_on)  # fmt: skip
    out = select(*three, section, 2, 3, max_tokens=3)
    assert sorted(keys(out.batch) + keys(out.rejects)) == sorted(keys(three[1]))
    assert sum(v for k, v in out.summary.items() if k.startswith("rejects/")) == len(out.rejects)
    cut = dict(zip(keys(three[1]), three[1]["finish_reason"].to_pylist(), strict=True))
    if truncated in ("mask", "drop"):
        assert "length" not in {cut[key] for key in keys(out.batch)}
    for key, reason in reasons(out).items():
        assert (reason != "truncated") or (cut[key] == "length" and truncated == "drop")
    # A rollout that was cut off and dropped is as if it had not been sampled.
    if truncated == "drop" and errs != "replace":
        rest = [[row for row in group if row.get("finish") != "length"] for group in groups]
        alone = run(*rest, errs=errs, bonus="cosine", horizon=9, bonus_on=bonus_on, iteration=2)
        assert alone.batch["advantage"].equals(out.batch["advantage"])


def test_advantage_without_deviation():
    out = run(policy(1, 0, 0, 0), advantage="group-mean")
    assert out.batch["advantage"].to_pylist() == [0.75, -0.25, -0.25, -0.25]


def test_delta_is_compared_in_the_precision_of_rewards():
    """The trap: 0.9 as float64 is more than 0.9 as float32."""
    out = run([*policy(0), {"reward": 0.9, "origin": "expert", "status": "correct"}], delta=0.9)
    assert out.rejects.num_rows == 0


def test_summary_counts_groups():
    out = run(policy(0, 0) + expert(0), policy(0, 0) + expert(1), policy(1, 1), policy(1, 0), [],
              expert(1))  # fmt: skip
    summary = out.summary
    assert summary["groups/all"] == 5
    assert summary["groups/zero_variance"] == 2
    assert summary["groups/one_member"] == 1
    assert summary["groups/all_wrong"] == 2
    assert summary["groups/all_right"] == 1
    assert summary["flips"] == 1
    assert summary["reward/on_policy"] == 3 / 8
    assert summary["reward/expert"] == pytest.approx(2 / 3)
    assert "reward/trace" not in summary


def test_all_rejected_and_nothing_at_all():
    out = run(expert(0, 0))
    assert (out.batch.num_rows, out.rejects.num_rows) == (0, 2)
    schemas.check("batch", out.batch, "batch")
    assert out.summary["groups/no_member"] == 1
    empty = run([])
    assert (empty.batch.num_rows, empty.rejects.num_rows) == (0, 0)
    schemas.check("rejects", empty.rejects, "rejects")


def test_tables_that_do_not_fit_are_refused():
    prompts, rollouts, verdicts = tables(policy(1, 0), policy(1, 0) + expert(1))
    section = SelectSection()

    def refused(match: str, *three: pa.Table) -> None:
        with pytest.raises(ValueError, match=match):
            select(*three, section, 1, 0)

    twice = pa.concat_tables([rollouts, rollouts.slice(1, 1)])
    refused(r"rollout 1 \(on_policy\) of problem p0 is there twice", prompts, twice, verdicts)
    refused("p1 is in the batch twice", pa.concat_tables([prompts, prompts.slice(1)]), rollouts,
            verdicts)  # fmt: skip
    refused(r"rollout 0 \(expert\) of problem p1 has no verdict", prompts, rollouts,
            verdicts.slice(0, 4))  # fmt: skip
    refused("was judged but is not among", prompts, rollouts.slice(0, 4), verdicts)
    refused("problem p1 is not among the prompts", prompts.slice(0, 1), rollouts, verdicts)
    place = rollouts.schema.get_field_index("origin")
    odd = rollouts.set_column(place, "origin", pa.array(["martian"] * 5))
    refused("origin martian", prompts, odd, verdicts)
    place = rollouts.schema.get_field_index("logprobs")
    short = pa.array([[-1.0]] * 5, rollouts.schema.field("logprobs").type)
    refused("row 0 has 2 tokens and 1 logprobs", prompts, rollouts.set_column(
        place, rollouts.schema.field("logprobs"), short), verdicts)  # fmt: skip


def test_sixteen_thousand_rollouts_are_all_told_of():
    groups, size, length = 2048, 8, 40
    rng = np.random.default_rng(0)
    base = tables(policy(*[0] * 7) + expert(1))
    ids = pa.array([f"{i:016x}" for i in range(groups)])
    prompts = base[0].take(np.zeros(groups, int)).set_column(0, "prompt_id", ids)
    rows = np.tile(np.arange(size), groups)
    wide = pa.array(ids.take(np.repeat(np.arange(groups), size)))
    rollouts = base[1].take(rows).set_column(0, "prompt_id", wide)
    offsets = np.arange(groups * size + 1, dtype=np.int32) * length
    for name, values in (
        ("response_ids", rng.integers(0, 9, offsets[-1]).astype(np.int32)),
        ("logprobs", -rng.random(offsets[-1], np.float32)),
    ):
        lists = pa.ListArray.from_arrays(offsets, pa.array(values))
        rollouts = rollouts.set_column(rollouts.schema.get_field_index(name), name, lists)
    verdicts = base[2].take(rows).set_column(0, "prompt_id", wide)
    for errs in ("drop", "replace"):
        out = select(prompts, rollouts, verdicts, SelectSection(errs=errs), 1, 0)
        assert out.batch.num_rows + out.rejects.num_rows == groups * size
