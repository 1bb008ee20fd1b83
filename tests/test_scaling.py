"""`make scaling`: the pipeline simulated, on graphs whose times are known."""

from itertools import pairwise

import pytest

from apps.scheduling.schedule import Stage
from tools import scaling


def graph(**seconds: float) -> list[Stage]:
    """Data, two models and a report on both."""
    needs = {"data": [], "slow": ["data"], "quick": ["data"], "report": ["slow", "quick"]}
    return [Stage(name, frozenset(needed), True, seconds[name], 0.0) for name, needed in needs.items()]


SMALL = graph(data=1, slow=10, quick=3, report=2)


@pytest.mark.parametrize(
    ("copies", "jobs", "seconds"), [(1, 1, 16), (1, 2, 13), (1, 9, 13), (2, 2, 16), (2, 4, 13)]
)
def test_copies_share_the_data_and_start_in_the_order_of_the_pipeline(copies, jobs, seconds):
    """Two copies, two at once: the data until 1, both slow ones until 11, quick ones 14, reports 16."""
    assert scaling.end(scaling.copied(SMALL, copies), jobs) == seconds


def test_no_number_of_cores_beats_the_longest_chain(monkeypatch):
    monkeypatch.setattr(scaling, "COPIES", (1, 7))
    rows = scaling.simulate(SMALL, 2, "a machine")
    assert [row.cores for row in rows] == [2 * jobs for jobs in scaling.JOBS] * 2
    for copies, limit in ((1, 16 / 13), (7, (1 + 7 * 15) / 13)):
        some = [row for row in rows if row.copies == copies]
        assert some[0].speed_up == 1
        assert all(one.seconds >= other.seconds for one, other in pairwise(some))
        assert all(row.speed_up <= min(row.jobs, row.limit) for row in some)
        assert some[-1].speed_up == some[-1].limit == pytest.approx(limit)


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of what DVC calls
def test_the_graph_is_that_of_the_pipeline(in_the_project):
    found = {stage.name: stage for stage in scaling.stages()}
    assert found["train_scratch@cnn"].needs == {"download_mnist"}
    assert {"compare_models", "visualize"} <= found["report"].needs
    assert found["train_pytorch@champion"].seconds > found["train_pytorch@sprint"].seconds > 0


def test_the_picture_shows_the_table():
    rows = [scaling.Row(copies, jobs, jobs, 80 / jobs, 80, 10, "") for copies in (1, 2) for jobs in (1, 2, 4)]
    (axis,) = scaling.draw(rows).axes
    _, *lines = [line.get_ydata().tolist() for line in axis.get_lines()]
    assert lines == [[1, 2, 4]] * 2
    assert [text.get_text() for text in axis.get_legend().get_texts()][1:] == [
        "1 copy: at most 8.0",
        "2 copies: at most 8.0",
    ]
