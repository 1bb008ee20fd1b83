"""Which stage starts when: made-up stages, no processes."""

import pytest

from apps.scheduling.schedule import Schedule, Stage

ENOUGH = 10_000.0


def stage(name: str, *needs: str, seconds: float = 1, mebibytes: float = 100, changed: bool = True) -> Stage:
    return Stage(name, frozenset(needs), changed, seconds, mebibytes)


def started(schedule: Schedule) -> list[str]:
    """All stages that can start now, in the order in which they do."""
    return list(iter(schedule.start, None))


def test_what_has_not_changed_and_needs_nothing_changed_is_left_alone():
    old = [stage("data", changed=False), stage("other", "data", changed=False)]
    schedule = Schedule([*old, stage("train", "data"), stage("report", "train", changed=False)], 9, ENOUGH)
    assert list(schedule.waiting) == ["train", "report"]
    assert started(schedule) == ["train"]


def test_a_stage_starts_as_soon_as_those_that_it_needs_are_done():
    schedule = Schedule([stage("a"), stage("b"), stage("c", "a"), stage("d", "a", "b")], 9, ENOUGH)
    assert started(schedule) == ["a", "b"]
    schedule.end("a", True)
    assert started(schedule) == ["c"]
    schedule.end("b", True)
    assert started(schedule) == ["d"]


def test_the_longest_way_to_the_end_starts_first():
    stages = [stage("short", seconds=1), stage("long", seconds=5), stage("first", seconds=2)]
    schedule = Schedule([*stages, stage("last", "first", seconds=4)], 2, ENOUGH)
    assert started(schedule) == ["first", "long"]


def test_no_more_run_at_once_than_there_are_jobs():
    schedule = Schedule([stage(name) for name in "abcde"], 3, ENOUGH)
    assert started(schedule) == ["a", "b", "c"]
    schedule.end("b", True)
    assert started(schedule) == ["d"]


def test_what_runs_at_once_fits_into_memory():
    needed = {"a": 300, "b": 500, "c": 300, "d": 50}
    schedule = Schedule([stage(name, mebibytes=m) for name, m in needed.items()], 9, 660)
    assert started(schedule) == ["a", "c", "d"]
    schedule.end("c", True)
    assert started(schedule) == [], "300 + 50 are taken, 500 more are too many"
    schedule.end("a", True)
    assert started(schedule) == ["b"]


def test_a_stage_that_needs_more_memory_than_there_is_runs_alone():
    schedule = Schedule([stage("small", mebibytes=10), stage("large", mebibytes=900, seconds=9)], 9, 100)
    assert started(schedule) == ["large"]
    schedule.end("large", True)
    assert started(schedule) == ["small"]


def test_a_failure_leaves_out_what_needs_it_and_nothing_else():
    stages = [stage("a"), stage("b"), stage("c", "a"), stage("d", "c"), stage("e", "b")]
    schedule = Schedule(stages, 9, ENOUGH)
    started(schedule)
    schedule.end("a", False)
    assert (schedule.failed, schedule.left_out) == ({"a"}, ["c", "d"])
    schedule.end("b", True)
    assert started(schedule) == ["e"]


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (1, 5 + 1 + 4),  # one after the other
        (2, 6),  # the longest chain is more than half of all
    ],
)
def test_the_time_left_is_that_of_the_work_or_of_the_longest_chain(jobs, expected):
    stages = [stage("a", seconds=8), stage("b", "a", seconds=1), stage("c", seconds=4)]
    schedule = Schedule(stages, jobs, ENOUGH)
    schedule.start()
    assert schedule.seconds_left({"a": 3.0}) == expected
