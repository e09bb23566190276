"""Is the text ability kept? The tuned model's text path against the base model, on the base model's own replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cotune.messages import TEXT, Message, Text
from cotune.model.multimodal_lm import MultimodalLM

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How many days are there in a week?",
    "What is two plus three?",
    "Name three fruits.",
    "Explain what a computer program is.",
    "Who wrote Romeo and Juliet?",
    "Give me a tip for sleeping better.",
    "Translate 'good morning' into Spanish.",
    "What do plants need to grow?",
    "Is the sun a star?",
    "Tell me a short joke.",
    "Why is the sky blue?",
    "What is the opposite of hot?",
    "List two uses of water.",
    "How do I boil an egg?",
    "What language is spoken in Brazil?",
    "Describe a bicycle.",
    "What is photosynthesis?",
    "Name a famous painter.",
    "What comes after Tuesday?",
    "How can I learn to draw?",
    "What is a mammal?",
    "Say hello politely.",
)


@dataclass(frozen=True)
class TextRetention:
    """Mean KL(base || tuned) in nats per token, the share of equal top choices, and one reply to read."""

    kl: float
    agreement: float
    question: str
    reply: str


@torch.no_grad()
def text_retention(base: Any, model: MultimodalLM, max_new_tokens: int = 24) -> TextRetention:
    """Return how far the text path of a tuned model is from an untouched copy of its base model.

    `base` is loaded afresh by the caller: a model with its adapters switched off would be measured against itself.
    Distributions are compared in float64 at every position of the base model's own greedy replies.
    """
    was_training = model.training
    model.eval()
    divergences, agreements = [], []
    for question in PROMPTS:
        prompt = torch.tensor([_prompt(model, question)], device=model.device)
        reply = _greedy(base, model, prompt, max_new_tokens)
        model.route([TEXT])
        there = _log_probabilities(base, reply, prompt.shape[1])
        here = _log_probabilities(model.llm, reply, prompt.shape[1])
        divergences.append((there.exp() * (there - here)).sum(-1))  # [reply tokens]
        agreements.append(there.argmax(-1) == here.argmax(-1))
    model.route([TEXT])
    prompt = torch.tensor([_prompt(model, PROMPTS[0])], device=model.device)
    reply = _greedy(model.llm, model, prompt, max_new_tokens)
    model.train(was_training)
    text = model.template.tokenizer.decode(reply[0, prompt.shape[1] :], skip_special_tokens=True)
    return TextRetention(
        kl=float(torch.cat(divergences).mean()),
        agreement=float(torch.cat(agreements).double().mean()),
        question=PROMPTS[0],
        reply=text.strip(),
    )


def _prompt(model: MultimodalLM, question: str) -> list[int]:
    return model.template.prompt([Message("user", (Text(question),))]).tokens


def _greedy(llm: Any, model: MultimodalLM, prompt: Tensor, max_new_tokens: int) -> Tensor:
    reply: Tensor = llm.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=model.template.filler,
        eos_token_id=sorted(model.template.stop_ids),
    )
    return reply


def _log_probabilities(llm: Any, tokens: Tensor, start: int) -> Tensor:
    """Return the log-probabilities that predict each token from `start` on, [reply tokens, vocabulary]."""
    logits: Tensor = llm(input_ids=tokens[:, :-1], use_cache=False).logits[0, start - 1 :]
    return logits.double().log_softmax(-1)
