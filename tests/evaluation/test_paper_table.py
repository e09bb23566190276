"""One's own scores beside the papers': in their unit, marked, with the source of every row."""

from cotune.evaluation.paper_numbers import paper_rows
from cotune.evaluation.paper_table import beside_papers, narrowed
from cotune.evaluation.science_qa import COLUMNS
from cotune.evaluation.score_tables import markdown_report


def test_own_scores_stand_first_in_the_papers_unit():
    [table] = beside_papers("coco-captions", {"Bleu_1": 0.5, "Bleu_4": 0.125, "CIDEr": 0.9, "accuracy": 0.0}, 5000)
    assert table.columns == ["", "Bleu_4", "CIDEr"]
    assert table.rows[0] == ["this run (5,000 questions)", "12.50", "90.00"]
    assert ["paper: BLIP-2 [1]", "43.7", "145.3"] in table.rows
    assert all(row[0].startswith("paper: ") for row in table.rows[1:])


def test_every_row_is_marked_with_its_source_and_how_it_was_seen():
    [table] = beside_papers("science-qa", dict.fromkeys(COLUMNS, 0.5), 4241)
    assert len(table.rows) == 1 + len(paper_rows("science-qa"))
    numbers = {note.partition(" ")[0] for note in table.notes}
    assert {row[0].rpartition(" ")[2] for row in table.rows[1:]} == numbers == {"[1]", "[2]"}
    assert "not verified" in table.notes[0] and "written by its authors" in table.notes[1]
    page = markdown_report("x", [table], {})
    assert all(f"- {note}" in page for note in table.notes) and "| 89.25 | 94.94 |" in page


def test_points_stay_points_and_a_total_that_is_not_known_is_no_number():
    [table] = beside_papers("mme", {"accuracy": 0.5, "perception": None, "cognition": 249.61}, 8)
    assert table.rows[0][1:] == ["-", "249.6"]
    assert ["paper: LLaMA-Adapter V2 [1]", "972.67", "248.90"] in table.rows


def test_a_task_that_no_paper_has_gets_no_table():
    assert beside_papers("easy-vqa", {"accuracy": 1.0}, 3) == []
    assert beside_papers("macs", {"CIDEr": 1.0}, 3) == []  # the paper gives ROUGE-L alone


def test_a_narrow_terminal_gets_the_scores_models_are_compared_by():
    [table] = beside_papers("science-qa", dict.fromkeys(COLUMNS, 0.5), 4241)
    assert narrowed(table, "science-qa", 120) is table
    small = narrowed(table, "science-qa", 80)
    assert small.columns == ["", "Avg"] and small.rows[0] == ["this run (4,241 questions)", "50.00"]
    assert "8 columns" in small.notes[-1]
