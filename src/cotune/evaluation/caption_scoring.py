"""Captions of pictures and sounds, scored against all that people wrote: COCO, MACS, Song Describer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

from cotune.errors import DataError
from cotune.evaluation.prediction import Prediction, Scores, share
from cotune.messages import unpack_texts

OFFICIAL = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr")


def official_captions(predictions: Sequence[Prediction], count: Callable[[int, int], None] | None = None) -> Scores:
    """Return the official COCO scores, and three shares that say what they are made of.

    `accuracy` is the share of captions equal to their reference, `wordless` that of captions without words, which score
    nothing. Each picture or sound is scored once: `repeated` is the share of predictions left out because an earlier
    one is of the same (samples read once for every caption; `options: {per: medium}` makes one). The references are
    those in `meta`, or the reference alone where there are none. See `cotune.evaluation.metrics.caption_scores`, which
    tells `count` how far it is.

    Raises:
        DataError: naming the predictions without any reference.
    """
    if not predictions:
        return dict.fromkeys((*OFFICIAL, "accuracy", "wordless", "repeated"))
    kept = _each_once(predictions)
    references = {key: unpack_texts(item.meta, "references") or [item.reference] for key, item in kept.items()}
    _check(kept, references)
    # Imported late: half a second goes into the patterns of its words.
    from cotune.evaluation.metrics import caption_scores, wordless

    said = {key: item.prediction for key, item in kept.items()}
    with warnings.catch_warnings():
        # Said by `wordless`, which stands in the table.
        warnings.simplefilter("ignore", UserWarning)
        scores: Scores = {**caption_scores(said, references, count=count)}
    return scores | {
        "accuracy": share(item.correct for item in predictions),
        "wordless": len(wordless(said, references)) / len(kept),
        "repeated": 1 - len(kept) / len(predictions),
    }


def _each_once(predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    """Return the predictions by their place, without those of media that a sample of another id was shown before.

    The same sample again counts again.
    """
    first: dict[str, str] = {}
    shown = ["\n".join(item.media) or item.id for item in predictions]
    pairs = enumerate(zip(shown, predictions, strict=True))
    return {str(place): item for place, (media, item) in pairs if first.setdefault(media, item.id) == item.id}


def _check(kept: Mapping[str, Prediction], references: Mapping[str, Sequence[str]]) -> None:
    """Raise DataError naming the samples that nothing is to be compared with."""
    problems = [
        f"sample '{item.id}': no reference; readers that give some: karpathy, coco-captions, macs, song-describer"
        for key, item in kept.items()
        if not any(text.strip() for text in references[key])
    ]
    if problems:
        raise DataError("captions that cannot be scored", sorted(problems))
