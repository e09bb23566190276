from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.messages import Audio, Image, Message, Sample, Text, modality_name, question_answer

CAT, DOG, BARK = Image(Path("cat.png")), Image(Path("dog.png")), Audio(Path("bark.wav"))

parts = st.one_of(st.builds(Text, st.text(max_size=5)), st.sampled_from([CAT, DOG, BARK]))
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.lists(parts, max_size=4).map(tuple))
samples = st.builds(Sample, st.just("s"), st.lists(messages, max_size=4).map(tuple))


@given(st.lists(st.sampled_from(["image", "audio", "video"])))
def test_a_modality_set_has_one_name_whatever_the_order_and_number(media):
    name = modality_name(media)
    assert name == modality_name(reversed(media)) == modality_name(media * 2)
    assert set(name.split("+")) == (set(media) or {"text"})


@given(samples)
def test_media_are_all_pictures_and_sounds_in_order_and_decide_the_modality(sample):
    found = []
    for message in sample.messages:
        for part in message.parts:
            if not isinstance(part, Text):
                found.append(part)
    assert list(sample.media) == found
    assert ("image" in sample.modality) == any(isinstance(part, Image) for part in found)
    assert ("audio" in sample.modality) == any(isinstance(part, Audio) for part in found)
    assert (sample.modality == "text") == (not found)


def test_the_text_of_a_message_joins_its_texts_and_leaves_no_trace_of_media():
    assert Message("user", (Text("a "), CAT, Text("b"), BARK)).text == "a b"


@given(samples)
def test_only_the_last_answer_is_taken_off(sample):
    before, answer = sample.without_last_answer()
    if sample.messages and sample.messages[-1].role == "assistant":
        assert (*before, sample.messages[-1]) == sample.messages
        assert answer == sample.messages[-1].text
    else:
        assert (before, answer) == (sample.messages, "")


def test_a_question_and_answer_shows_the_media_first():
    sample = question_answer("7", "what?", "that", media=[CAT, BARK], origin="f:1", meta={"kind": "open"})
    assert sample.messages == (
        Message("user", (CAT, BARK, Text("what?"))),
        Message("assistant", (Text("that"),)),
    )
    assert (sample.id, sample.origin, sample.meta, sample.modality) == ("7", "f:1", {"kind": "open"}, "audio+image")


def test_samples_cannot_be_changed_by_accident():
    sample = question_answer("7", "what?", "that")
    with pytest.raises(AttributeError):
        sample.id = "8"  # type: ignore[misc]
