from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.evaluation import retention
from cotune.evaluation.retention import text_retention
from cotune.messages import Message, Text
from cotune.model.loading import build_model, load_llm
from cotune.model.multimodal_lm import MultimodalLM
from tests.evaluation.conftest import perturb_adapters
from tests.tiny import tiny_recipe

PROMPTS = ("Why?", "Name three fruits.", "Say hello politely.")
NEW_TOKENS = 5


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PROMPTS", PROMPTS)


@pytest.fixture
def base(tiny_root: Path) -> Any:
    return load_llm(tiny_recipe(tiny_root).model.llm)


def prompt_tokens(model: MultimodalLM, question: str) -> list[int]:
    return list(model.template.prompt([Message("user", (Text(question),))]).tokens)


@torch.no_grad()
def logits(llm: Any, tokens: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return llm(input_ids=torch.tensor([tokens])).logits[0].double().numpy()


def greedy(llm: Any, tokens: list[int], stop: set[int]) -> list[int]:
    reply: list[int] = []
    while len(reply) < NEW_TOKENS and not stop & set(reply):
        reply.append(int(logits(llm, tokens + reply)[-1].argmax()))
    return reply


def naive(base: Any, model: MultimodalLM) -> tuple[float, float]:
    """KL and agreement in numpy, position by position, from whole sequences without a cache."""
    divergences, agreements = [], []
    for question in PROMPTS:
        tokens = prompt_tokens(model, question)
        whole = tokens + greedy(base, tokens, model.template.stop_ids)
        model.route(["text"])
        there, here = logits(base, whole), logits(model.llm, whole)
        for position in range(len(tokens) - 1, len(whole) - 1):
            p, q = (np.exp(row[position] - row[position].max()) for row in (there, here))
            p, q = p / p.sum(), q / q.sum()
            divergences.append(sum(p * np.log(p / q)))
            agreements.append(p.argmax() == q.argmax())
    return float(np.mean(divergences)), float(np.mean(agreements))


def test_an_untouched_model_keeps_its_text_exactly(base, model):
    kept = text_retention(base, model, NEW_TOKENS)
    assert (kept.kl, kept.agreement) == (0.0, 1.0)


def test_a_changed_language_model_is_measured_as_a_naive_version_measures_it(base, model):
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    kept = text_retention(base, model, NEW_TOKENS)
    kl, agreement = naive(base, model)
    assert kl > 1e-3 and 0 < agreement < 1
    assert kept.kl == pytest.approx(kl, rel=1e-4)
    assert kept.agreement == pytest.approx(agreement)


def test_hard_routing_keeps_the_text_exactly_after_the_image_expert_has_learned(base, tuned):
    kept = text_retention(base, tuned, NEW_TOKENS)
    assert (kept.kl, kept.agreement) == (0.0, 1.0)
    # The expert did learn: pictures are answered by other numbers than the base model's.
    tokens = torch.tensor([prompt_tokens(tuned, "Why?")])
    with torch.no_grad():
        tuned.route(["image"])
        assert (tuned.llm(input_ids=tokens).logits - base(input_ids=tokens).logits).abs().max() > 0.1


@pytest.mark.parametrize(
    "routing", [["model.llm.routing.text=trained"], ["model.llm.routing.mode=soft"]], ids=["text expert", "soft"]
)
def test_a_text_path_that_learned_is_seen_to_have_changed(base, tiny_root, routing):
    model = perturb_adapters(build_model(tiny_recipe(tiny_root, *routing)))
    kept = text_retention(base, model, NEW_TOKENS)
    assert kept.kl == pytest.approx(naive(base, model)[0], rel=1e-4)
    assert kept.kl > 1e-3


def test_the_reply_to_read_is_the_tuned_models_own(base, model):
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    kept = text_retention(base, model, NEW_TOKENS)
    model.route(["text"])
    reply = greedy(model.llm, prompt_tokens(model, PROMPTS[0]), model.template.stop_ids)
    assert kept.question == PROMPTS[0]
    assert kept.reply == model.template.tokenizer.decode(reply, skip_special_tokens=True).strip()


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_as_it_was(base, model, training):
    model.train(training)
    text_retention(base, model, 1)
    assert model.training == training
