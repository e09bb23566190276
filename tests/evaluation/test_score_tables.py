from cotune.evaluation.score_tables import Printed, markdown_report, printed_scores
from cotune.evaluation.tasks import TASKS
from tests.evaluation.test_science_qa import BY_HAND


def test_the_nine_columns_are_a_table_in_percent_and_the_rest_is_listed():
    nine, rest = printed_scores("science-qa", TASKS["science-qa"].scores(BY_HAND))
    assert nine.columns == ["", "wrong", "guessed"]  # options were not scored
    assert [row[0] for row in nine.rows] == ["NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg"]
    assert [float(row[1]) for row in nine.rows] == [50, 100, 33.33, 100, 50, 33.33, 50, 50, 50]
    assert [row[0] for row in rest.rows] == ["Avg (main)", "accuracy", "unanswered", "no_such_choice"]
    assert rest.rows[0] == ["Avg (main)", "0.5000"]


def test_subtasks_that_were_not_asked_are_no_rows_and_no_total_is_no_number():
    scores = {
        "accuracy": 0.5,
        "count_accuracy": 0.5,
        "count_accuracy_plus": 0.25,
        "perception": None,
        "cognition": 249.6,
    }
    subtasks, rest = printed_scores("mme", scores)
    assert subtasks.rows == [["count", "50.00", "25.00"]]
    assert rest.rows == [["perception (main)", "-"], ["accuracy", "0.5000"], ["cognition", "249.6"]]


def test_a_task_without_a_table_lists_its_scores():
    [table] = printed_scores("exact-match", {"accuracy": 1 / 3})
    assert table.rows == [["accuracy (main)", "0.3333"]]


def test_the_main_score_of_captions_is_no_accuracy_and_stands_first():
    scores = {"Bleu_4": 0.1, "CIDEr": 1.25, "accuracy": 0.0}
    [table] = printed_scores("coco-captions", scores)
    assert table.rows == [["CIDEr (main)", "1.2500"], ["Bleu_4", "0.1000"], ["accuracy", "0.0000"]]


def test_every_headline_is_a_score_of_its_task():
    known = {"science-qa": TASKS["science-qa"].scores(BY_HAND), "coco-captions": TASKS["coco-captions"].scores([])}
    known |= {name: TASKS[name].scores([]) for name in ("exact-match", "easy-vqa", "captions")}
    assert all(set(TASKS[name].headline) <= scores.keys() for name, scores in known.items())


def test_markdown_keeps_its_columns_whatever_the_texts_are():
    page = markdown_report("a task", [Printed("One", ["", "a|b"], [["x\ny", "1"]])], {"data": "here"})
    assert page == "# a task\n\n- data: here\n\nOne\n\n|   | a\\|b |\n| --- | ---: |\n| x y | 1 |\n"


def test_every_score_of_every_layout_has_as_many_names_as_columns():
    for task in TASKS.values():
        if task.table is not None:
            assert all(len(names) == len(task.table.columns) for _, names in task.table.rows)
