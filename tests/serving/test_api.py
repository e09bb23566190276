"""The API by its official client: what it answers, in one piece or many, and how it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from cotune.messages import Message, Part, Text
from cotune.model.multimodal_lm import MultimodalLM
from cotune.serving.limits import Limits
from tests.model.naive_joined import naive_answer
from tests.model.test_joined_media import picture, sound
from tests.serving.live_server import NAME, Live, audio_part, image_part, live_server, picture_url, question


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with client_of(live) as made:
        yield made


def client_of(live: Live, key: str = "unused") -> OpenAI:
    return OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0, timeout=60)


SHOWN = {
    "text": "",
    "image": "p0",
    "audio": "s1",
    "audio+image": "s0 p1 p2",
}


def parts_of(root: Path, media: str) -> list[dict[str, Any]]:
    made = {
        "p": lambda number: image_part(picture_url(picture(root, number).path)),
        "s": lambda number: audio_part(sound(root, number).path),
    }
    return [made[name[0]](int(name[1])) for name in media.split()]


def expected(model: MultimodalLM, root: Path, text: str, media: str, length: int) -> str:
    """Return the answer computed by hand, from the files themselves."""
    shown: list[Part] = [{"p": picture, "s": sound}[name[0]](root, int(name[1])) for name in media.split()]
    tokens = naive_answer(model, [Message("user", (*shown, Text(text)))], length)
    answer: str = model.template.tokenizer.decode(tokens, skip_special_tokens=True)
    return answer


@pytest.mark.parametrize("modality", SHOWN)
def test_every_modality_has_the_answer_computed_by_hand_in_one_piece_and_in_many(
    client: OpenAI, served_model: MultimodalLM, tiny_root: Path, modality: str
) -> None:
    media = SHOWN[modality]
    body = question("what?", parts_of(tiny_root, media), max_tokens=9)
    right = expected(served_model, tiny_root, "what?", media, 9)
    whole = client.chat.completions.create(**body)
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    assert whole.choices[0].message.content == right
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == right
    assert chunks[-1].usage == whole.usage
    last = next(chunk for chunk in reversed(chunks) if chunk.choices)
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.cotune == whole.cotune  # type: ignore[attr-defined]
    assert whole.cotune["modality"] == modality  # type: ignore[attr-defined]
    assert whole.cotune["path"] == ("base" if modality == "text" else "routed")  # type: ignore[attr-defined]


def test_usage_counts_what_the_tokenizer_counts(client: OpenAI, served_model: MultimodalLM, tiny_root: Path) -> None:
    found = client.chat.completions.create(**question("what?", parts_of(tiny_root, "p0"), max_tokens=5))
    assert found.usage is not None
    prompt = served_model.template.prompt([Message("user", (picture(tiny_root, 0), Text("what?")))])
    assert found.usage.prompt_tokens == len(prompt)
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.usage.completion_tokens == 5 and found.choices[0].finish_reason == "length"


def test_the_routing_is_the_models_own_table(client: OpenAI, served_model: MultimodalLM, tiny_root: Path) -> None:
    found = client.chat.completions.create(**question("what?", parts_of(tiny_root, "p0")))
    adapters = served_model.adapters
    assert adapters is not None
    row = adapters.modalities.index("image")
    assert found.cotune["routing"] == [table[row].tolist() for table in adapters.tables()]  # type: ignore[attr-defined]


def test_a_stop_text_ends_the_answer_in_front_of_it(client: OpenAI, tiny_root: Path) -> None:
    body = question("what?", parts_of(tiny_root, "p0"), max_tokens=30)
    text = client.chat.completions.create(**body).choices[0].message.content
    assert text is not None and len(text) > 6
    stop = text[3:5]
    for stops in (stop, ["never so", stop]):
        cut = client.chat.completions.create(**body, stop=stops).choices[0]
        assert (cut.message.content, cut.finish_reason) == (text[: text.find(stop)], "stop")
        chunks = client.chat.completions.create(**body, stop=stops, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[: text.find(stop)]


def test_several_answers_are_told_apart_and_repeat_by_their_seed(client: OpenAI) -> None:
    body = question(n=3, temperature=1.5, top_p=0.95, seed=11, max_tokens=12)
    first = [choice.message.content for choice in client.chat.completions.create(**body).choices]
    again = ["", "", ""]
    for chunk in client.chat.completions.create(**body, stream=True):
        again[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert first == again and len(set(first)) == 3
    other = client.chat.completions.create(**{**body, "seed": 12})
    assert [choice.message.content for choice in other.choices] != first


def test_an_answer_sent_back_as_the_client_has_it_goes_on_with_the_conversation(
    client: OpenAI, served_model: MultimodalLM, tiny_root: Path
) -> None:
    body = question("what?", parts_of(tiny_root, "p0"))
    answer = client.chat.completions.create(**body).choices[0].message
    turns = [*body["messages"], answer.model_dump(), {"role": "user", "content": "and now?"}]
    found = client.chat.completions.create(model=NAME, messages=turns, max_tokens=6)
    messages = [
        Message("user", (picture(tiny_root, 0), Text("what?"))),
        Message("assistant", (Text(answer.content or ""),)),
        Message("user", (Text("and now?"),)),
    ]
    right = served_model.template.tokenizer.decode(naive_answer(served_model, messages, 6), skip_special_tokens=True)
    assert found.choices[0].message.content == right


def test_of_a_sound_longer_than_is_heard_the_answer_says_so(
    client: OpenAI, served_model: MultimodalLM, tiny_root: Path
) -> None:
    heard = served_model.encoder("audio").max_seconds
    seconds = 0.2 + 0.4 * 3
    assert heard < seconds
    found = client.chat.completions.create(**question("what?", parts_of(tiny_root, "s3")))
    assert found.cotune["notes"] == [  # type: ignore[attr-defined]
        f"messages.0.content.0: {seconds:.1f} s long, the first {heard:g} s were heard"
    ]


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "hot": ({"temperature": 2.5}, "temperature"),
    "a tool": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "probabilities": ({"logprobs": True}, "logprobs"),
    "a penalty": ({"presence_penalty": 0.5}, "presence_penalty"),
    "too many answers": ({"n": 9}, "n"),
    "too long an answer": ({"max_tokens": 10**6}, "max_tokens"),
    "a web address": (
        {"messages": [{"role": "user", "content": [image_part("http://127.0.0.1/secret.png")]}]},
        "messages.0.content.0.image_url.image_url.url",
    ),
    "a file": (
        {"messages": [{"role": "user", "content": [image_part("file:///etc/passwd")]}]},
        "messages.0.content.0.image_url.image_url.url",
    ),
}


@pytest.mark.parametrize("changes, param", WRONG.values(), ids=list(WRONG))
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**question(), **changes})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert param.rpartition(".")[2] in str(refused.value)


def test_all_that_is_wrong_is_named_at_once(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**question(temperature=9.0, top_p=7.0, seed="x"))
    for key in ("temperature", "top_p", "seed"):
        assert key in refused.value.message


def test_another_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(**{**question(), "model": "gpt-4"})
    assert refused.value.code == "model_not_found"


def test_a_prompt_beyond_the_context_is_refused_with_its_length(served_model: MultimodalLM) -> None:
    with live_server(served_model, Limits(prompt_tokens=40)) as live:
        with client_of(live) as client, pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**question("long " * 30))
        assert refused.value.code == "context_length_exceeded"


def test_a_full_queue_is_429_with_a_time_to_come_back(served_model: MultimodalLM) -> None:
    with live_server(served_model, Limits(rows=1, queue=1, answer_tokens=400)) as live:

        def ask(number: int) -> int:
            answer = live.post(question(f"question {number}", max_tokens=300, temperature=1.0, seed=number))
            assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        with ThreadPoolExecutor(8) as threads:
            statuses = list(threads.map(ask, range(8)))
        assert set(statuses) == {200, 429}
        assert live.post(question()).status_code == 200


def test_the_time_of_a_request_ends_its_answer(served_model: MultimodalLM) -> None:
    limits = Limits(seconds=0.5, answer_tokens=10**6, prompt_tokens=10**6)
    stop_ids = set(served_model.template.stop_ids)
    served_model.template.stop_ids.clear()
    try:
        with live_server(served_model, limits) as live:
            found = live.post(question(max_tokens=450)).json()
    finally:
        served_model.template.stop_ids.update(stop_ids)
    short = found["usage"]["completion_tokens"] < 450
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["cotune"].get("out_of_time", False) == short


def test_folded_weights_give_the_same_answers(live: Live, served_model: MultimodalLM, tiny_root: Path) -> None:
    bodies = [question("what?", parts_of(tiny_root, media), max_tokens=12) for media in SHOWN.values()]
    with live_server(served_model, fold=True) as folded:
        for body, modality in zip(bodies, SHOWN, strict=True):
            found, routed = folded.post(body).json(), live.post(body).json()
            assert found["choices"] == routed["choices"]
            assert found["cotune"]["path"] == ("base" if modality == "text" else "folded")
            assert found["cotune"]["routing"] == routed["cotune"]["routing"]


def test_health_and_metrics_say_what_was_done(served_model: MultimodalLM) -> None:
    with live_server(served_model) as live:
        live.post(question())
        live.post({"model": NAME})
        health = httpx.get(f"{live.url}/health").json()
        counted = httpx.get(f"{live.url}/metrics").text
    assert health == {"status": "ok", "running": 0, "waiting": 0}
    assert 'cotune_requests_answered_total{modality="text",path="base"} 1.0' in counted
    assert 'cotune_responses_total{status="400"} 1.0' in counted
    assert "cotune_first_token_seconds_count 1.0" in counted
