"""Which worked examples may be shown, and in which order."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SMALL

from icpo_core.method.demonstrations import Demonstrations
from icpo_core.method.problems import read_problems
from icpo_core.store import tables


def problem_set(*problems: str, solution: str | None = "worked", prefix: str = "p") -> pa.Table:
    return tables.table(
        "problems",
        [
            {
                "id": f"{prefix}{number}",
                "problem": problem,
                "answer": "1",
                "solution": solution,
                "source": "test",
            }
            for number, problem in enumerate(problems)
        ],
    )


WALK = (
    "Every morning Aya goes for a walk of nine kilometers and stops at a coffee shop afterwards. "
    "How many minutes does the walk take her, including the time that she spends in the shop?"
)
POOL = problem_set("What is 2 + 2?", WALK, "Find the area of a circle.", "Factor 91.", prefix="d")


def test_never_the_question_nor_a_near_duplicate() -> None:
    question = problem_set("Factor 91", WALK.replace("nine", "ten"), "Another one.")
    shown = Demonstrations(POOL, question, [], "random", 0)
    for iteration in range(20):
        assert sorted(shown.choices(0, iteration).tolist()) == [0, 1, 2]
        assert sorted(shown.choices(1, iteration).tolist()) == [0, 2, 3]
        assert sorted(shown.choices(2, iteration).tolist()) == [0, 1, 2, 3]


def test_never_itself_by_id() -> None:
    """The training set as its own pool, with a problem that was edited in one of both."""
    question = problem_set("Quite another text", prefix="d")
    assert 0 not in Demonstrations(POOL, question, [], "random", 0).choices(0, 1)


def test_never_a_problem_of_an_excluded_set() -> None:
    excluded = [problem_set("factor $91$", solution=None), problem_set(WALK + " Tell her.")]
    shown = Demonstrations(POOL, problem_set("Q"), excluded, "random", 0)
    assert shown.ids == ["d0", "d2"]
    assert shown.left_out == {"no solution": 0, "excluded": 2}


def test_random_is_seeded_and_even() -> None:
    questions = problem_set("A question", "Another question")
    first = Demonstrations(POOL, questions, [], "random", 0)
    again = Demonstrations(POOL, questions, [], "random", 0)
    other = Demonstrations(POOL, questions, [], "random", 1)
    orders = [first.choices(0, iteration).tolist() for iteration in range(200)]
    assert orders == [again.choices(0, iteration).tolist() for iteration in range(200)]
    assert orders != [other.choices(0, iteration).tolist() for iteration in range(200)]
    assert orders != [first.choices(1, iteration).tolist() for iteration in range(200)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    for place in range(4):
        assert 30 <= sum(order[0] == place for order in orders) <= 70


def test_similar_takes_the_nearest() -> None:
    questions = problem_set("What is the area of the circle of radius two?", "Factor 97", "zzz")
    shown = Demonstrations(POOL, questions, [], "similar", 0)
    assert shown.choices(0, 1)[0] == 2
    assert shown.choices(1, 1)[0] == 3
    assert shown.choices(2, 1).tolist() == [0, 1, 2, 3]  # nothing in common: the pool's order
    assert shown.choices(0, 1).tolist() == shown.choices(0, 9).tolist()


def test_best_takes_the_highest_score() -> None:
    scored = POOL.append_column("score", pa.array([0.5, 0.1, 0.9, 0.5]))
    shown = Demonstrations(scored, problem_set("Find the area of a circle", "Q"), [], "best", 0)
    assert shown.choices(0, 1).tolist() == [0, 3, 1]
    assert shown.choices(1, 5).tolist() == [2, 0, 3, 1]
    gap = POOL.append_column("score", pa.array([0.5, None, 0.9, 0.5]))
    for pool in (POOL, gap):
        with pytest.raises(ValueError, match="best needs a number in column 'score'"):
            Demonstrations(pool, problem_set("Q"), [], "best", 0)


def test_pools_that_cannot_serve() -> None:
    with pytest.raises(ValueError, match="no rows"):
        Demonstrations(POOL.slice(0, 0), problem_set("Q"), [], "random", 0)
    bare = problem_set("a", "b", solution=None)
    with pytest.raises(ValueError, match="none of the 2 demonstrations can be shown"):
        Demonstrations(bare, problem_set("Q"), [], "random", 0)
    with pytest.raises(ValueError, match=r"4 are problems of the sets in prompts\.exclude"):
        Demonstrations(POOL, problem_set("Q"), [POOL], "random", 0)


def test_examples_without_a_solution_are_left_out() -> None:
    pool = pa.concat_tables([POOL, problem_set("Unsolved", solution=None, prefix="u")])
    shown = Demonstrations(pool, problem_set("Q"), [], "random", 0)
    assert len(shown) == 4
    assert shown.left_out == {"no solution": 1, "excluded": 0}


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_small_family_never_leaks(data: st.DataObject) -> None:
    """Whatever of the training set is planted in the pool or excluded, it is not shown."""
    train = read_problems(str(SMALL / "train.parquet")).slice(0, 60)
    pool = read_problems(str(SMALL / "demonstrations.parquet")).slice(0, 40)
    rows = st.lists(st.integers(0, 59), max_size=10, unique=True)
    planted = train.take(pa.array(data.draw(rows), pa.int64()))
    dressed = [f"  ${text}$ ." for text in planted.column("problem").to_pylist()]
    renamed = [f"x{number}" for number in range(planted.num_rows)]
    planted = planted.set_column(0, planted.schema.field(0), [pa.array(renamed, pa.string())])
    planted = planted.set_column(1, planted.schema.field(1), [pa.array(dressed, pa.string())])
    excluded = train.take(pa.array(data.draw(rows), pa.int64()))
    selection = data.draw(st.sampled_from(["random", "similar"]))
    shown = Demonstrations(pa.concat_tables([pool, planted]), train, [excluded], selection, 0)
    banned = set(excluded.column("problem").to_pylist())
    for row, question in enumerate(train.column("problem").to_pylist()):
        for place in shown.choices(row, 1):
            text = shown.examples[place].problem.strip(" $.")
            assert text != question
            assert text not in banned
