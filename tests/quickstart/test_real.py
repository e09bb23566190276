"""Fetches the real packages; needs a network and about 1 GB, so it runs with COTUNE_REAL=1 only."""

import os
import shutil

import pytest

from cotune.quickstart import commands, ensure, resolve

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.environ.get("COTUNE_REAL") != "1", reason="fetches real packages; set COTUNE_REAL=1"),
]


def test_the_language_model_talks() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ensure(["smollm2-135m-instruct"])["smollm2-135m-instruct"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_the_image_encoder_has_every_tensor() -> None:
    from safetensors.torch import load_file

    tensors = load_file(f"{resolve('quickstart:efficientnet-lite0')}/model.safetensors")
    assert len(tensors) == 296
    assert tensors["stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["head.weight"].shape == (1280, 320, 1, 1)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_sound_encoder_computes_what_another_program_does() -> None:
    """Against three states of the package's own file, as CTranslate2 4.8.5 computes them in fp32."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    folder = resolve("quickstart:whisper-tiny-en")
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).encoder.eval()
    spectrogram = torch.sin(0.1 * torch.arange(80 * 3000, dtype=torch.float64)).float().reshape(1, 80, 3000)
    with torch.no_grad():
        states = encoder(spectrogram).last_hidden_state[0, [0, 700, 1499], :3]
    expected = [[0.4591, -0.1239, 0.3073], [0.8191, -0.2829, -1.0720], [0.2782, 0.7163, -0.1127]]
    torch.testing.assert_close(states, torch.tensor(expected), rtol=0, atol=2e-4)
    assert AutoFeatureExtractor.from_pretrained(folder).feature_size == 80


def test_the_questions_have_their_pictures() -> None:
    import json
    from pathlib import Path

    folder = Path(resolve("quickstart:easy-vqa"))
    assert len((folder / "answers.txt").read_text().split()) == 13
    for split, questions in (("train", 38_575), ("test", 9_673)):
        rows = json.loads((folder / split / "questions.json").read_text())
        assert len(rows) == questions
        assert all((folder / split / "images" / f"{picture}.png").is_file() for picture in {row[2] for row in rows})


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="a Debian package; this machine has no apt-get")
def test_the_stamps_have_their_captions() -> None:
    from pathlib import Path

    folder = Path(resolve("quickstart:tuxpaint-stamps/stamps"))
    pictures = list(folder.rglob("*.png"))
    assert len(pictures) == 785
    captions = [picture.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0] for picture in pictures]
    assert all(caption.strip() for caption in captions)
    assert len(list(folder.iterdir())) == 16
    sounds = list(folder.rglob("*.ogg"))
    assert len(sounds) == 131
    assert all(sound.with_suffix(".png").is_file() for sound in sounds)


def test_a_second_call_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["smollm2-135m-instruct", "efficientnet-lite0", "easy-vqa"]
    found = ensure(names)
    monkeypatch.setattr(commands, "run_command", lambda command, *_: pytest.fail(f"{command} was run"))
    assert ensure(names) == found
