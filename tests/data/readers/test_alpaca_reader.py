def test_instruction_input_and_output_become_a_question_and_an_answer(write, read):
    records = [
        {"instruction": "Translate.", "input": "Hund", "output": "dog", "topic": "words"},
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
        {"instruction": "Say bye.", "output": "Bye.", "system": "Be kind."},
    ]
    path = write("a.jsonl", records)
    samples, problems = read("alpaca", path)
    assert problems.found == [] and problems.counts == {}
    assert [[message.text for message in sample.messages] for sample in samples] == [
        ["Translate.\n\nHund", "dog"],
        ["Say hi.", "Hi."],
        ["Be kind.", "Say bye.", "Bye."],
    ]
    assert samples[0].meta == {"topic": "words"}
    assert [sample.id for sample in samples] == ["1", "2", "3"]
    assert {sample.modality for sample in samples} == {"text"}


def test_every_problem_is_reported_at_once(write, read, tmp_path):
    records = [
        {"instruction": "x"},
        {"input": 3, "output": "y"},
        {"instruction": "x", "output": "y", "images": ["a.png"]},
        {"instruction": "x", "output": "y", "history": [["a", "b"]]},
    ]
    samples, problems = read("alpaca", write("a.json", records), tmp_path)
    assert [sample.id for sample in samples] == ["4"]
    shown = [line.partition("sample ")[2] for line in problems.found]
    assert "leave `media` out" in problems.found[0]
    assert shown[1:] == [
        "'1': key 'output' is missing; text is expected",
        "'2': key 'input' holds a number; text is expected",
        "'2': key 'instruction' is missing; text is expected",
        "'3': key 'images' names media that this format cannot use; remove it or choose another reader",
    ]
    assert problems.counts == {"records whose key 'history' is not used": 1}
