"""The decoding benchmark on a tiny model."""

import json

import decode

from tests.tiny import tiny_recipe


def test_the_three_ways_are_measured_and_the_folded_model_answers_as_the_routed_one(tiny_root, tmp_path):
    recipe = tiny_recipe(tiny_root)
    made = decode.models(recipe)
    answers = {}
    for name, model in made.items():
        batch = decode.prompts(model, 3, 5)
        answers[name] = model.generate(batch, 6)
    assert all(len(answer) == 6 for rows in answers.values() for answer in rows)  # nothing stops
    assert answers["routed"] == answers["folded"] != answers["base"]

    decode.run("decode", recipe, rounds=2, prompt=4, answer=3, output=tmp_path / "decode.json")
    found = json.loads((tmp_path / "decode.json").read_text())
    assert list(found)[:2] == ["benchmark", "date"]
    for size in (1, 16):
        speeds = found["rounds"][str(size)]
        assert all(len(speeds[name]) == 2 and min(speeds[name]) > 0 for name in ("routed", "folded", "base"))
        shares = [one / other for one, other in zip(speeds["routed"], speeds["base"], strict=True)]
        assert min(shares) <= found[f"routed_to_base_batch_{size}"] <= max(shares)
