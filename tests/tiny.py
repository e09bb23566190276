"""Tiny random models and data for the tests: everything real but the size."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from cotune.model.encoders.efficientnet import EfficientNetLite0
from cotune.recipe import Recipe
from cotune.recipe.reading import parse_recipe
from tests.model.encoders.tiny_encoders import RATE, noise, save_audio_model, save_vision_model

COLORS = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (20, 160, 60)}


def save_tokenizer(folder: Path) -> Any:
    """Save and return a byte-level tokenizer with ChatML marks: any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    vocabulary |= {character: index + 3 for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    fast.save_pretrained(folder)
    return fast


def save_llm(folder: Path, *, layers: int = 2, width: int = 32) -> Path:
    """Save a tiny random Llama with its tokenizer; returns the folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = save_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
        # Large enough that a random model has opinions: otherwise every logit is the same.
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_efficientnet(folder: Path) -> Path:
    """Save a random EfficientNet-Lite0 in the form the quickstart's conversion gives; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    save_file(EfficientNetLite0().state_dict(), folder / "model.safetensors")
    about = {"kind": "efficientnet-lite0", "image_size": 224, "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def save_questions(folder: Path, pictures: int = 12) -> Path:
    """Save an easy-VQA-like folder: one coloured shape a picture, four questions each; returns the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    questions: list[list[object]] = []
    for number in range(pictures):
        color, shape = list(COLORS)[number % 3], ("circle", "rectangle")[number % 2]
        picture = Image.new("RGB", (32, 32), (250, 250, 250))
        draw = ImageDraw.Draw(picture)
        (draw.ellipse if shape == "circle" else draw.rectangle)((6, 6, 24, 24), fill=COLORS[color])
        picture.save(folder / "images" / f"{number}.png")
        asked = list(COLORS)[(number // 2) % 3]
        questions += [
            ["what color is the shape?", color, number],
            ["what shape is present?", shape, number],
            [f"is there a {asked} shape?", "yes" if asked == color else "no", number],
            [f"is there not a {asked} shape?", "no" if asked == color else "yes", number],
        ]
    (folder / "questions.json").write_text(json.dumps(questions))
    return folder


def save_sound(path: Path, seconds: float, seed: int) -> Path:
    """Save that much noise as 16-bit mono WAV, written by hand; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((noise(seconds, seed).clip(-1, 1) * 32767).astype(np.int16).tobytes())
    return path


def save_conversations(folder: Path) -> Path:
    """Save a chat file about pictures and sounds beside them, every modality set twice; returns the file.

    The four pictures are noise; the sounds last from 0.2 to 1.4 seconds, so that some are longer than is heard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        save_sound(folder / f"{number}.wav", 0.2 + 0.4 * number, number)
    shown: list[list[str]] = [[], ["0.png"], ["0.wav"], ["1.png", "1.wav"]]
    shown += [[], ["2.png", "3.png"], ["2.wav", "3.wav"], ["3.wav", "2.png", "3.wav"]]
    lines = []
    for number, files in enumerate(shown):
        parts: list[dict[str, str]] = [{"type": "text", "text": "what? "}]
        parts += [{"type": "image" if file.endswith("png") else "audio", "path": file} for file in files]
        turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": f"this is {number}"}]
        lines.append(json.dumps({"id": str(number), "messages": turns}))
    (folder / "chat.jsonl").write_text("\n".join(lines))
    return folder / "chat.jsonl"


def joined_recipe(root: Path, *overrides: str) -> Recipe:
    """Return a tiny recipe with an image and an audio encoder of transformers, over pictures and sounds.

    Two taps of the one, one of the other, so that the connectors differ in width.
    """
    return tiny_recipe(
        root,
        f"model.encoders.image={{path: {root / 'sight'}, taps: [layer1, last], grid: 2}}",
        f"model.encoders.audio={{path: {root / 'hearing'}, frames: 3}}",
        "components.vision.tune=frozen",
        "model.encoders.image.adapters={rank: 4, groups: 2}",
        "model.encoders.audio.adapters={rank: 4, groups: 2}",
        f"data.train=[{{path: {root / 'conversations' / 'chat.jsonl'}}}]",
        "data.test=[]",
        "data.validation_share=0.0",
        "evaluation.task=exact-match",
        *overrides,
    )


def tiny_recipe(root: Path, *overrides: str) -> Recipe:
    """Return a recipe over a tiny model and data saved below `root` (made when missing)."""
    if not (root / "llm").exists():
        save_llm(root / "llm")
        save_efficientnet(root / "encoder")
        save_questions(root / "train")
        save_questions(root / "test", pictures=4)
        save_vision_model(root / "sight", "clip")
        save_audio_model(root / "hearing", "whisper")
        save_conversations(root / "conversations")
    content: dict[str, Any] = {
        "name": "tiny",
        "output": str(root / "run"),
        "model": {
            "llm": {
                "path": str(root / "llm"),
                "dtype": "float32",
                "chat_template": "chatml",
                "adapters": {"rank": 4, "groups": 2},
            },
            "encoders": {
                "image": {
                    "kind": "efficientnet-lite0",
                    "path": str(root / "encoder"),
                    "image_size": 32,
                    "taps": ["stage3", "stage7"],
                    "grid": 1,
                }
            },
            "connector": {"hidden": 8},
        },
        "components": {"vision": {"tune": "adapters"}},
        "data": {
            "train": [{"path": str(root / "train"), "reader": "easy-vqa"}],
            "validation_share": 0.2,
            "test": [{"path": str(root / "test"), "reader": "easy-vqa"}],
        },
        "training": {"steps": 6, "batch_size": 4, "warmup_steps": 1, "evaluate_every": 4, "snapshot_every": 3},
        "evaluation": {"task": "easy-vqa", "max_new_tokens": 3, "text_retention": False},
    }
    return parse_recipe(content, overrides)
