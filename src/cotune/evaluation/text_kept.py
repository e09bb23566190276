"""What tuning did to text: loss on a text file and TruthfulQA, before and after, on every path of the tuned model.

The text path answers questions without pictures. The image path is measured on the same text, without a picture: it
shows how far the adapters that look at pictures have moved the language model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from cotune.evaluation.answer_likelihood import AnswerLikelihood, Encoded, encode_answer, shared_beginning
from cotune.evaluation.paper_numbers import PaperRow, paper_rows, sources
from cotune.evaluation.text_loss import TextLoss, text_loss
from cotune.evaluation.truthful_qa import Question, mean_scores
from cotune.messages import TEXT
from cotune.model.loading import load_llm, load_tuned
from cotune.model.multimodal_lm import MultimodalLM
from cotune.model.shared_weights import share_weights
from cotune.progress import progress
from cotune.run_folder import RunFolder, open_run
from cotune.whole_file import write_whole

BASE = "base model"
COLUMNS = ("model", "loss, nats per token", "MC1, %", "MC2, %")


@dataclass(frozen=True)
class TextKept:
    """The loss on a text, and TruthfulQA's MC1 and MC2 (shares) of the base model and of every path."""

    loss: TextLoss
    questions: int = 0
    truthful_qa: dict[str, dict[str, float]] = field(default_factory=dict)

    def rows(self) -> list[list[str]]:
        """Return the table: the base model, every path, and what papers report, marked as theirs."""
        losses = {BASE: self.loss.base} | {f"{path} path": value for path, value in self.loss.paths.items()}
        rows = [[name, f"{loss:.4f}", *self._choices(name)] for name, loss in losses.items()]
        return rows + [[row.label, "", f"{row.scores['MC']:.1f} (MC1 or 2)", ""] for row in self.papers]

    @property
    def papers(self) -> Sequence[PaperRow]:
        """What papers report on TruthfulQA; nothing to show beside where it was not asked."""
        return paper_rows("truthful-qa") if self.truthful_qa else ()

    @property
    def notes(self) -> list[str]:
        """What the table rests on."""
        notes = [f"Loss on {self.loss.tokens} tokens of text. The image and audio paths read it without a medium."]
        if self.truthful_qa:
            notes.append(f"TruthfulQA: {self.questions} questions behind its own primer, log-probabilities summed.")
        lines = sources(self.papers)
        return notes + [f"paper: {line}; other models; MC1 or MC2 is not said where it was read" for line in lines]

    def _choices(self, name: str) -> list[str]:
        found = self.truthful_qa.get(name)
        return ["-", "-"] if found is None else [f"{100 * found[key]:.2f}" for key in ("MC1", "MC2")]


def measure_text_kept(folder: RunFolder, text: str, questions: Sequence[Question], console: Console) -> TextKept:
    """Return how a finished run's base model and every path of its tuned model do on text.

    Raises:
        RunFolderError: when the folder holds no run.
        DataError: when the text is too short.
    """
    run, recipe = open_run(folder.path)
    with console.status("Loading"):
        tuned = load_tuned(recipe, run.adapter)
        base = load_llm(recipe.model.llm, tuned.device)
        share_weights(base, tuned.llm)
        base.to(tuned.device)
    with console.status("Reading the text"):
        loss = text_loss(base, tuned, text)
    if not questions:
        return TextKept(loss)
    paths = list(_paths(tuned, base))
    with progress(console, f"TruthfulQA on {len(paths)} paths", len(questions) * len(paths), "questions") as advance:
        scores = {
            name: truthful_qa(llm, tuned.template.tokenizer, questions, route, lambda: advance(1))
            for name, llm, route in paths
        }
    return TextKept(loss, len(questions), scores)


def truthful_qa(
    llm: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    route: Callable[[], None] = lambda: None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return MC1 and MC2 of a language model, as shares; `route` is called before, to choose its path."""
    route()
    encoded = [[encode_answer(tokenizer, item.prompt, answer) for answer in item.answers] for item in questions]
    likelihood = AnswerLikelihood(llm, shared_beginning([prompt for item in encoded for prompt, _ in item]))
    found = []
    for question, answers in zip(questions, encoded, strict=True):
        found.append(question.scores(dict(zip(question.answers, _scored(likelihood, answers), strict=True))))
        advance()
    return mean_scores(found)


def _scored(likelihood: AnswerLikelihood, answers: Sequence[Encoded], at_once: int = 16) -> list[float]:
    parts = [answers[start : start + at_once] for start in range(0, len(answers), at_once)]
    return [value for part in parts for value in likelihood.score(part)]


def _paths(tuned: MultimodalLM, base: Any) -> Iterator[tuple[str, Any, Callable[[], None]]]:
    """Yield what is measured: name, language model, and what chooses its path."""
    yield BASE, base, lambda: None
    for name in tuned.adapters.modalities.names if tuned.adapters is not None else (TEXT,):
        yield f"{name} path", tuned.llm, partial(tuned.route, [name])


def write_text_kept(found: TextKept, run: RunFolder) -> Path:
    """Write `text_kept.json` into the run folder; returns the file."""
    file = run.path / "text_kept.json"
    content = {"loss": asdict(found.loss), "questions": found.questions, "truthful_qa": found.truthful_qa}
    write_whole(file, json.dumps(content, indent=2) + "\n")
    return file
