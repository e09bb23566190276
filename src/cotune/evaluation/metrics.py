"""Caption scores as the official COCO scorer gives them: BLEU, ROUGE-L and CIDEr, without its Java.

The scorer is that of Chen et al. 2015 (arXiv 1504.00325); where it differs from the papers of its measures, it is
followed, for published scores are its.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from cotune.errors import DataError
from cotune.evaluation.ptb_tokens import caption_words

ORDERS = 4  # the longest sequences of words that are compared
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0

Sequences = Counter[tuple[str, ...]]
Count = Callable[[int, int], None]
_Item = TypeVar("_Item")


def caption_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], *, count: Count | None = None
) -> dict[str, float]:
    """Return `Bleu_1` to `Bleu_4`, `ROUGE_L` and `CIDEr` of one caption for each id, against the captions people wrote.

    All are shares of one but `CIDEr`, which is at most 10. A caption that is missing or has no words scores nothing,
    and a warning says how many there are; the order of the ids does not matter. `count` is told how much is done of
    how much.

    CIDEr weighs words by how many of the ids have them, so that it depends on all of the references; for a single id it
    is 0.

    Raises:
        DataError: when there is nothing to score, for predictions whose id has no references, for ids whose list of
            references is empty, and for captions that are no text; it names them all.
    """
    _check(predictions, references)
    silent = wordless(predictions, references)
    if silent:
        message = f"{len(silent)} of {len(references)} captions are missing or without words; they score nothing"
        warnings.warn(message, stacklevel=2)
    candidates = [caption_words(predictions.get(key, "")) for key in references]
    # Words and CIDEr take nearly all of the time, about the same.
    both = 2 * len(references)
    wanted = [[caption_words(text) for text in texts] for texts in _told(references.values(), count, 0, both)]
    unmatched = sum(not any(texts) for texts in wanted)
    if unmatched:
        message = (
            f"{unmatched} of {len(references)} ids have only references without words; nothing can agree with them"
        )
        warnings.warn(message, stacklevel=2)
    scores = {f"Bleu_{order + 1}": value for order, value in enumerate(bleu(candidates, wanted))}
    scores["ROUGE_L"] = rouge_l(candidates, wanted)
    return scores | {"CIDEr": cider(candidates, wanted, count)}


def wordless(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the ids without a prediction, or with one that has no words once punctuation is left out."""
    return [key for key in references if not caption_words(predictions.get(key, ""))]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return BLEU of one to four words over all captions (Papineni et al. 2002, equation 3), as shares.

    Precisions are clipped by the reference that has a sequence most often; the length that a caption should have is
    that of the reference nearest to it, the shorter of two as near.
    """
    right, made = [0] * ORDERS, [0] * ORDERS
    length = wanted_length = 0
    for candidate, texts in zip(candidates, references, strict=True):
        known = [_sequences(text.split()) for text in texts]
        own = candidate.split()
        length += len(own)
        wanted_length += min((abs(len(text.split()) - len(own)), len(text.split())) for text in texts)[1]
        for sequence, count in _sequences(own).items():
            made[len(sequence) - 1] += count
            right[len(sequence) - 1] += min(count, max(found[sequence] for found in known))
    # As the scorer has it, so that nothing is divided by zero.
    precisions = [(hits + 1e-15) / (tries + 1e-9) for hits, tries in zip(right, made, strict=True)]
    ratio = (length + 1e-15) / (wanted_length + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [brevity * math.prod(precisions[:order]) ** (1 / order) for order in range(1, ORDERS + 1)]


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the mean ROUGE-L (Lin 2004, equations 2-4, with beta 1.2), as a share.

    The best precision and the best recall may come from different references; a caption without words has 0.
    """
    return _mean([_rouge_l(candidate, texts) for candidate, texts in zip(candidates, references, strict=True)])


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]], count: Count | None = None) -> float:
    """Return the mean CIDEr (Vedantam et al. 2015, arXiv 1411.5726), in the form CIDEr-D with sigma 6: 0 to 10.

    Sequences of one to four words are weighted by the share of pictures whose references have them. The penalty for
    the length compares, as in the scorer, the numbers of pairs of words.
    """
    known = [[_sequences(text.split()) for text in texts] for texts in references]
    pictures: Sequences = Counter()
    for found in known:
        pictures.update(set().union(*found))
    pairs = _told(zip(candidates, known, strict=True), count, len(known), 2 * len(known))
    return _mean([_cider(_sequences(text.split()), found, pictures, len(known)) for text, found in pairs])


def _check(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    """Raise DataError naming everything that keeps captions from being scored."""
    problems = [f"{key!r} has a prediction and no references" for key in predictions if key not in references]
    if problems and {type(key) for key in predictions} != {type(key) for key in references}:
        problems.append("ids of another type are other ids: 1 is not '1'")
    for key, said in predictions.items():
        if not isinstance(said, str):
            problems.append(f"{key!r}: the prediction must be a text, not {type(said).__name__}")
    for key, texts in references.items():
        problems += [f"{key!r}: {problem}" for problem in _problems_of(texts)]
    if not references:
        problems.append("there are no references")
    if problems:
        raise DataError("captions that cannot be scored", problems)


def _problems_of(texts: Sequence[str]) -> list[str]:
    """Return what keeps the references of one id from being used."""
    if not isinstance(texts, list | tuple):
        return [
            f"a list of references is expected, not {'one text' if isinstance(texts, str) else type(texts).__name__}"
        ]
    if not texts:
        return ["its list of references is empty"]
    return [f"a reference must be a text, not {type(text).__name__}" for text in texts if not isinstance(text, str)]


def _told(items: Iterable[_Item], count: Count | None, before: int, total: int) -> Iterator[_Item]:
    """Yield items, and tell `count` of each one done."""
    for number, item in enumerate(items, start=before + 1):
        yield item
        if count is not None:
            count(number, total)


def _sequences(words: Sequence[str]) -> Sequences:
    """Return how often each sequence of one to four words occurs."""
    lengths = range(1, ORDERS + 1)
    return Counter(tuple(words[at : at + size]) for size in lengths for at in range(len(words) - size + 1))


def _rouge_l(candidate: str, references: Sequence[str]) -> float:
    """Return ROUGE-L of one caption; words with a space that does not break are one word here, and two elsewhere."""
    if not candidate:
        return 0.0
    own, texts = candidate.split(" "), [text.split(" ") for text in references]
    common = [_longest_common(own, text) for text in texts]
    precision = max(common) / len(own)
    recall = max(length / len(text) for length, text in zip(common, texts, strict=True))
    if not common or not max(common):
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two lists of words."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
        above = row
    return above[-1]


def _cider(candidate: Sequences, references: Sequence[Sequences], pictures: Sequences, total: int) -> float:
    own, own_norms, own_pairs = _weighted(candidate, pictures, total)
    score = 0.0
    for found in references:
        other, other_norms, pairs = _weighted(found, pictures, total)
        products = [0.0] * ORDERS
        for sequence, weight in own.items():
            if sequence in other:
                products[len(sequence) - 1] += min(weight, other[sequence]) * other[sequence]
        norms = [mine * theirs for mine, theirs in zip(own_norms, other_norms, strict=True)]
        alike = sum(product / norm for product, norm in zip(products, norms, strict=True) if norm)
        score += alike * math.exp(-((own_pairs - pairs) ** 2) / (2 * _CIDER_SIGMA**2))
    return 10 * score / ORDERS / len(references)


def _weighted(
    found: Sequences, pictures: Sequences, total: int
) -> tuple[dict[tuple[str, ...], float], list[float], int]:
    """Return the weight of each sequence, the norms of those of one to four words, and how many pairs there are."""
    weights = {
        sequence: count * (math.log(total) - math.log(max(1, pictures[sequence]))) for sequence, count in found.items()
    }
    squares = [0.0] * ORDERS
    for sequence, weight in weights.items():
        squares[len(sequence) - 1] += weight**2
    pairs = sum(count for sequence, count in found.items() if len(sequence) == 2)
    return weights, [math.sqrt(square) for square in squares], pairs


def _mean(values: Sequence[float]) -> float:
    # Summed exactly, so that the order of the captions cannot matter.
    return math.fsum(values) / len(values)
