import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import DataError
from cotune.evaluation.metrics import bleu, caption_scores, cider, rouge_l, wordless
from tests.evaluation.java_scorer import needs_java_scorer, official_scores

NAMES = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
WORDS = ["a", "dog", "the", "red", "runs", "cat", "on", "grass", "two", "men", "ball", "big"]

words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
corpora = st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=4)), min_size=1, max_size=6)


def columns(corpus):
    return [said for said, _ in corpus], [texts for _, texts in corpus]


def grams(text, n):
    found = text.split()
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


@given(corpora)
def test_bleu_is_its_formula(corpus):
    def naive(order):
        precisions = []
        for n in range(1, order + 1):
            hits = sum(
                min(grams(said, n).count(gram), max(grams(text, n).count(gram) for text in texts))
                for said, texts in corpus
                for gram in set(grams(said, n))
            )
            tries = sum(len(grams(said, n)) for said, _ in corpus)
            # The scorer never divides by zero, nor takes a root of it.
            precisions.append((hits or 1e-15) / (tries or 1e-9))
        made = sum(len(said.split()) for said, _ in corpus)
        wanted = sum(
            min((len(text.split()) for text in texts), key=lambda size: (abs(size - len(said.split())), size))
            for said, texts in corpus
        )
        brevity = min(1.0, math.exp(1 - wanted / made))
        return brevity * math.prod(precisions) ** (1 / order)

    found = bleu(*columns(corpus))
    for order in range(1, 5):
        assert found[order - 1] == pytest.approx(naive(order), abs=1e-8)


@given(corpora)
def test_rouge_l_is_its_formula(corpus):
    def longest(first, second):
        subsequences = {
            picked for size in range(len(second) + 1) for picked in itertools.combinations(second, size)
        }  # fmt: skip
        return max(
            len(picked) for size in range(len(first) + 1) for picked in itertools.combinations(first, size)
            if picked in subsequences
        )  # fmt: skip

    def naive(said, texts):
        common = [longest(said.split(), text.split()) for text in texts]
        precision = max(common) / len(said.split())
        recall = max(length / len(text.split()) for length, text in zip(common, texts, strict=True))
        return 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0.0

    small = [(" ".join(said.split()[:6]), [" ".join(text.split()[:6]) for text in texts[:2]]) for said, texts in corpus]
    expected = sum(naive(*row) for row in small) / len(small)
    assert rouge_l(*columns(small)) == pytest.approx(expected)


@given(corpora)
def test_cider_is_its_formula(corpus):
    total = len(corpus)

    def vector(text, n):
        counts = Counter(grams(text, n))
        weights = {}
        for gram, count in counts.items():
            frequency = sum(any(gram in grams(text, n) for text in texts) for _, texts in corpus)
            weights[gram] = count * math.log(total / max(1, frequency))
        return weights

    def norm(weights):
        return math.sqrt(sum(weight**2 for weight in weights.values()))

    def naive(said, texts):
        score = 0.0
        for n, text in itertools.product(range(1, 5), texts):
            own, other = vector(said, n), vector(text, n)
            product = sum(min(own[gram], other[gram]) * other[gram] for gram in own.keys() & other.keys())
            length = len(grams(said, 2)) - len(grams(text, 2))
            if norm(own) * norm(other):
                score += product / norm(own) / norm(other) * math.exp(-(length**2) / 72)
        return 10 * score / 4 / len(texts)

    expected = sum(naive(*row) for row in corpus) / total
    assert cider(*columns(corpus)) == pytest.approx(expected, abs=1e-9)


@given(corpora, st.randoms())
def test_the_order_of_the_ids_does_not_matter(corpus, dice):
    said = {str(number): text for number, (text, _) in enumerate(corpus)}
    references = {str(number): texts for number, (_, texts) in enumerate(corpus)}
    shuffled = dice.sample(list(references), len(references))
    assert caption_scores(said, references) == caption_scores(
        dict(reversed(said.items())), {key: references[key] for key in shuffled}
    )


LONG = [
    "A dog runs over the grass.",
    "Two men throw a red ball!",
    "The cat sleeps on a big chair",
    "A train arrives at the old station",
]


def test_the_very_references_have_the_highest_scores():
    said = {str(number): text for number, text in enumerate(LONG)}
    scores = caption_scores(said, {key: [text] for key, text in said.items()})
    assert list(scores) == NAMES
    assert scores == pytest.approx(dict.fromkeys(NAMES, 1.0) | {"CIDEr": 10.0}, abs=1e-6)


@given(corpora)
def test_nothing_scores_higher_than_the_reference_itself(corpus):
    texts = {str(number): found[:1] for number, (_, found) in enumerate(corpus)}
    said = {str(number): text for number, (text, _) in enumerate(corpus)}
    best, found = caption_scores({key: one[0] for key, one in texts.items()}, texts), caption_scores(said, texts)
    assert all(found[name] <= best[name] + 1e-9 for name in NAMES)
    assert all(0 <= value <= (10 if name == "CIDEr" else 1) + 1e-9 for name, value in best.items())


@pytest.mark.parametrize("silent", ["", "  \n", "...", "'' -- !"])
def test_a_missing_or_empty_caption_is_a_counted_nothing(silent):
    references = {str(number): [text] for number, text in enumerate(LONG)}
    said = {key: texts[0] for key, texts in references.items()}
    with pytest.warns(UserWarning, match="1 of 4 captions are missing or without words"):
        empty = caption_scores(said | {"2": silent}, references)
    with pytest.warns(UserWarning, match="1 of 4"):
        missing = caption_scores({key: text for key, text in said.items() if key != "2"}, references)
    assert empty == missing
    assert empty["CIDEr"] == pytest.approx(7.5) and empty["ROUGE_L"] == pytest.approx(0.75)
    assert wordless(said | {"2": silent}, references) == ["2"]
    with pytest.warns(UserWarning, match="4 of 4"):
        assert caption_scores({}, references) == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-3)


@pytest.mark.parametrize(
    ("said", "references", "named"),
    [
        ({"1": "a", "x": "b", "y": "c"}, {"1": ["a"]}, "'x' has a prediction and no references.*\n.*'y' has"),
        ({"1": "a"}, {"1": [], "2": "text"}, "'1': its list of references is empty.*\n.*'2': a list of references"),
        ({}, {}, "there are no references"),
        ({1: "a"}, {"1": ["a"]}, "1 has a prediction and no references.*\n.*1 is not '1'"),
        ({"1": None, "2": ["a"]}, {"1": ["a"], "2": [3]}, "not NoneType.*\n.*not list.*\n.*reference must.*not int"),
        ({"1": "a"}, {"1": {"a"}}, "a list of references is expected, not set"),
    ],
)
def test_what_cannot_be_scored_is_named(said, references, named):
    with pytest.raises(DataError, match=named):
        caption_scores(said, references)


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.text(), st.lists(st.text(), min_size=1)), min_size=1))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_text_of_any_script_is_too_much(corpus):
    said, references = {key: text for key, (text, _) in corpus.items()}, {key: two[1] for key, two in corpus.items()}
    scores = caption_scores(said, references)
    assert all(0 <= value <= 10 + 1e-9 for value in scores.values())
    assert len(wordless(said, references)) <= len(said)


def test_references_without_words_are_a_counted_nothing():
    with pytest.warns(UserWarning, match="1 of 2 ids have only references without words"):
        scores = caption_scores({"1": "a dog", "2": "a dog"}, {"1": ["a dog"], "2": ["", "..."]})
    assert scores["ROUGE_L"] == pytest.approx(0.5)


def test_it_says_how_far_it_is():
    told = []
    caption_scores({"1": "a", "2": "b"}, {"1": ["a"], "2": ["b"]}, count=lambda *both: told.append(both))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def corpus_of(captions: list[str], seed: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return predictions and one to five references, made of captions so that some words agree."""
    dice = random.Random(seed)
    said, references = {}, {}
    for number, caption in enumerate(captions):
        pieces = caption.split()
        references[str(number)] = [caption, *dice.sample(captions, dice.randint(0, 4))]
        dice.shuffle(pieces[: len(pieces) // 2])
        said[str(number)] = (
            " ".join(pieces[dice.randint(0, 1) : len(pieces) - dice.randint(0, 2)])
            + " "
            + dice.choice(dice.choice(captions).split())
        )
    return said, references


@needs_java_scorer
def test_the_scores_are_the_official_ones():
    rows = map(json.loads, Path(__file__).with_name("ptb_words.jsonl").read_text("utf-8").splitlines())
    # The official tokenizer reads a lone last letter by what the next caption begins with, and drops empty captions.
    captions = [row["caption"] for row in rows if row["words"] and not row["caption"].rstrip().endswith(".")]
    said, references = corpus_of(captions, 3)
    silent = wordless(said, references)
    said, references = ({key: old[key] for key in old if key not in silent} for old in (said, references))
    assert caption_scores(said, references) == pytest.approx(official_scores(said, references), abs=1e-6)
