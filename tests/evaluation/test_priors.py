from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.evaluation.priors import majority, question_only
from cotune.evaluation.tasks import Prediction
from cotune.messages import Sample, question_answer

Prior = Callable[[Sequence[Sample], Sequence[Sample]], list[Prediction]]
Pairs = list[tuple[str, str]]


def samples(pairs: Pairs) -> list[Sample]:
    return [
        question_answer(str(number), question, answer, meta={"kind": "k"})
        for number, (question, answer) in enumerate(pairs)
    ]


def answers(prior: Prior, train: Pairs, questions: Sequence[str]) -> list[str]:
    return [item.prediction for item in prior(samples(train), samples([(question, "?") for question in questions]))]


def most_frequent(values: Sequence[str]) -> str:
    """The value counted most often, the first seen among equals."""
    best = values[0]
    for value in values:
        if values.count(value) > values.count(best):
            best = value
    return best


TRAIN = [("red?", "no"), ("red?", "yes"), ("red?", "yes"), ("what?", "blue"), ("blue?", "no"), ("blue?", "no")]


def test_the_majority_answer_by_hand():
    assert answers(majority, TRAIN, ["red?", "what?", "never seen"]) == ["no", "no", "no"]


def test_the_answer_to_the_same_question_by_hand():
    assert answers(question_only, TRAIN, ["red?", "what?", "blue?", "never seen"]) == ["yes", "blue", "no", "no"]


pairs = st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("abc")), min_size=1, max_size=12)


@given(pairs, st.lists(st.sampled_from("pqrs"), max_size=5))
def test_both_priors_count_as_a_naive_version_does(train, questions):
    overall = most_frequent([answer for _, answer in train])
    assert answers(majority, train, questions) == [overall] * len(questions)
    naive = []
    for question in questions:
        known = [answer for asked, answer in train if asked == question]
        naive.append(most_frequent(known) if known else overall)
    assert answers(question_only, train, questions) == naive


@pytest.mark.parametrize("prior", [majority, question_only])
def test_references_are_kept_beside_the_guesses_and_never_used(prior):
    test = samples([("red?", "purple"), ("new?", "green")])
    found = prior(samples(TRAIN), test)
    assert [(item.id, item.question, item.reference, item.meta) for item in found] == [
        ("0", "red?", "purple", {"kind": "k"}),
        ("1", "new?", "green", {"kind": "k"}),
    ]
    assert not any(item.correct for item in found)


def test_many_different_questions_are_counted_in_one_pass():
    # Adding up one table of answers per question took minutes here.
    train = [(f"question {number}", f"answer {number}") for number in range(20_000)]
    assert answers(question_only, train, ["question 19999", "new"]) == ["answer 19999", "answer 0"]
