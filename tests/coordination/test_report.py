"""A diagnosis' report: what a trace holds of it is enough to say the same again."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cotune.coordination.learning import GradientSize
from cotune.coordination.loop_health import LoopHealth
from cotune.coordination.oscillation import Oscillation
from cotune.coordination.report import ComponentReport, DiagnosisSettings, Report, report_of
from cotune.coordination.sentences import sentences

SHARE = st.floats(0.0, 1.0)
PARTS = st.builds(
    ComponentReport,
    divergence=SHARE,
    change=SHARE,
    efficiency_left=st.none() | SHARE,
    insufficiency=SHARE,
    insufficient=st.booleans(),
)
REPORTS = st.builds(
    Report,
    step=st.integers(0, 100),
    rejected_share=SHARE,
    log_kappa_median=st.none() | st.floats(-9, 9),
    biased=st.booleans(),
    oscillation=st.none() | st.builds(Oscillation, st.floats(0, 5), st.none(), st.none() | SHARE, st.integers(0, 9)),
    noise_known=st.booleans(),
    alternating=st.booleans(),
    interaction_median=st.none() | st.floats(-1, 1),
    loop=st.none() | st.builds(LoopHealth, SHARE, st.none() | st.floats(-1, 1), SHARE, SHARE, SHARE),
    components=st.dictionaries(st.sampled_from(["features", "language"]), PARTS),
)


@given(REPORTS)
def test_a_row_gives_back_its_report_and_its_sentences(report: Report) -> None:
    again = report_of(report.step, report.row())
    assert again == report
    assert sentences(again, DiagnosisSettings()) == sentences(report, DiagnosisSettings())


def test_rows_of_another_version_are_read_as_far_as_they_go() -> None:
    assert report_of(3, {"rejected": True, "rejected_share": 0.75, "unknown": 1}) == Report(step=3, rejected_share=0.75)
    found = report_of(3, {"components": {"llm": {"change": 0.5, "newer": 1}}})
    assert found.components["llm"] == ComponentReport(divergence=None, change=0.5)  # type: ignore[arg-type]


def test_a_gradient_that_was_recorded_does_not_stand_in_the_way() -> None:
    part = ComponentReport(1.0, 1.0, gradient=GradientSize(1.0, 2.0, 0.5))
    again = report_of(1, Report(components={"llm": part}).row()).components["llm"]
    assert replace(again, gradient=part.gradient) == part
