"""VQA's accuracy against a second, naive writing of its published rule."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import DataError
from cotune.evaluation.prediction import Prediction
from cotune.evaluation.tasks import with_verdicts
from cotune.evaluation.vqa import (
    credit_normalised,
    credit_text_vqa,
    credit_vqa,
    normalise_text_vqa,
    normalise_vqa,
    text_vqa,
    vqa_v2,
)
from cotune.messages import pack_texts

MARKS = [*';/[]"{}()=+\\_-><@`,?!']


def said(text, answers, kind="other", name="1"):
    return Prediction(name, "?", text, "", "image", {"answers": pack_texts(answers), "kind": kind})


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("Yes.", "yes"),
        ("The dog", "dog"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("3.5", "3.5"),  # the point of a number stays
        ("3. 5", "3 5"),
        ("100,978 people", "100978 people"),  # no space where the comma stood in a number
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("red-and-white", "red and white"),
        ("red - white", "red white"),  # a mark beside a space goes, and leaves no second space
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yalld've", "yalld've"),  # two apostrophes are missing
        ("yall'd've", "y'all'd've"),
        ("ow's'at", "'ow's'at"),
        ("oclock", "o'clock"),
        ("somebody'd", "somebodyd"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("im", "im"),
        (" a  an the ", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_the_official_page_says(answer, plain):
    assert normalise_vqa(answer) == plain


def naive(answer):
    """The steps of the official page, one character and one word at a time."""
    beside_space = {m for m in MARKS if f"{m} " in answer or f" {m}" in answer}
    number = any(
        answer[i : i + 3][1:2] == "," and re.fullmatch(r"\d,\d", answer[i : i + 3]) for i in range(len(answer))
    )
    text, removed = "", 0
    characters = ["" if c in beside_space or (number and c in MARKS) else " " if c in MARKS else c for c in answer]
    joined = "".join(characters)
    for place, character in enumerate(joined):
        if character == "." and not joined[place + 1 : place + 2].isdecimal() and removed < 32:
            removed += 1
        else:
            text += character
    words = []
    for word in text.lower().split():
        digit = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "ten": "10"}.get(word, word)
        if digit not in ("a", "an", "the"):
            words.append({"dont": "don't", "isnt": "isn't", "hes": "he's"}.get(digit, digit))
    return " ".join(words)


pieces = st.lists(
    st.sampled_from(
        [*MARKS, ".", "...", " ", "  ", "one", "None", "ten", "The", "a", "dont", "Isnt", "green", "1,000", "7"]
    ),
    max_size=8,
).map("".join)


@given(pieces)
def test_normalising_is_what_a_naive_second_writing_does(answer):
    assert normalise_vqa(answer) == naive(answer)


@given(pieces)
def test_text_vqa_takes_commas_and_question_marks_out_first(answer):
    assert normalise_text_vqa(answer) == naive(answer.lower().replace(",", "").replace("?", "").strip())
    assert normalise_text_vqa("Angie's, bar?") == "angie 's bar"


def naive_credit(text, answers):
    """Everyone is left out once; three of the others who said it make it right."""
    credits = []
    for index in range(len(answers)):
        others = answers[:index] + answers[index + 1 :]
        credits.append(min(1, others.count(text) / 3))
    return sum(credits) / len(credits)


answers = st.lists(st.sampled_from(["red", "Red.", "the red", "blue", "2", "two", " red\n"]), min_size=1, max_size=12)


@given(answers, st.sampled_from(["red", "Red", "Blue!", "two", "", "x"]))
def test_the_credit_is_the_mean_over_everyone_left_out(given_answers, text):
    item = said(text, given_answers)
    tidy = [answer.strip() for answer in given_answers]
    if len(set(tidy)) > 1:
        assert credit_vqa(item) == pytest.approx(naive_credit(naive(text), [naive(a) for a in tidy]))
    else:
        assert credit_vqa(item) == pytest.approx(naive_credit(text, tidy))
    assert credit_normalised(item) == pytest.approx(naive_credit(naive(text), [naive(a) for a in tidy]))
    assert credit_text_vqa(item) == pytest.approx(naive_credit(naive(text), [naive(a) for a in tidy]))


def test_ten_people_by_hand():
    ten = ["yes"] * 2 + ["no"] * 7 + ["maybe"]
    assert credit_vqa(said("yes", ten)) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)  # 0.6
    assert credit_vqa(said("maybe", ten)) == pytest.approx(9 / 30)
    assert credit_vqa(said("No.", ten)) == 1.0
    assert credit_vqa(said("Yes.", ["yes"] * 10)) == 0.0  # all agree: nothing is normalised
    assert credit_normalised(said("Yes.", ["yes"] * 10)) == 1.0


def test_scores_are_means_in_total_and_by_kind():
    rows = [
        said("yes", ["yes"] * 9 + ["no"], "yes/no"),
        said("3", ["2"] * 9 + ["two"], "number"),
        said("red", ["red", "red", *["pink"] * 8], "other"),
    ]
    scores = vqa_v2(rows)
    assert scores["yes_no_accuracy"] == 1.0 and scores["number_accuracy"] == 0.0
    assert scores["other_accuracy"] == pytest.approx(0.6)
    assert scores["accuracy"] == pytest.approx(1.6 / 3)
    assert text_vqa(rows)["accuracy"] == pytest.approx(1.6 / 3)


def test_a_credit_of_half_a_point_counts_as_right():
    rows = with_verdicts("vqav2", [said("red", ["red"] * n + ["pink"] * (10 - n)) for n in (1, 2, 3)])
    assert [row.credit for row in rows] == [pytest.approx(0.3), pytest.approx(0.6), pytest.approx(0.9)]
    assert [row.correct for row in rows] == [False, True, True]


def test_an_empty_answer_is_wrong_and_no_crash():
    assert vqa_v2([said("", ["yes"] * 10)])["accuracy"] == 0.0
    assert text_vqa([said("", ["yes"] * 10)])["accuracy"] == 0.0


def test_predictions_of_something_else_are_refused_by_name():
    with pytest.raises(DataError, match="sample '7': meta lacks answers, kind; read it with `reader: vqa`"):
        vqa_v2([Prediction("7", "?", "a", "a", "text")])
    with pytest.raises(DataError, match="TextVQA"):
        text_vqa([Prediction("7", "?", "a", "a", "text")])
