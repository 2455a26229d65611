"""Which swaths workers get: every one is computed, few window rows twice, and nobody idles for long."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfmap.cluster.runs import MOST_ROWS, Runs


def carry_out(
    rows: list[int], workers: int, seed: int = 0, deaths: float = 0.0, speeds: list[float] | None = None
) -> tuple[list[int], float, int]:
    """Play workers that compute a window row per second, some of which die.

    Returns:
        How often each swath was computed, seconds until all were, and window rows computed twice.
    """
    draw = random.Random(seed)
    runs = Runs(rows, "run")
    times, leads, now = [0] * len(rows), 0, 0.0
    names = [f"worker {number}" for number in range(workers)]
    pace = dict(zip(names, speeds or [1.0] * workers, strict=True))
    at: dict[str, tuple[int, float]] = {}  # the swath in work, and when it will be finished
    while runs.left:
        idle = [name for name in names if name not in runs.running]
        for number, name in enumerate(idle):
            if not runs.waiting and (found := runs.split(1)) is not None:
                run, stop = found
                runs.shorten(run, max(stop, at[run.worker][0] + 1))
            if (new := runs.take(name, len(idle) - number)) is not None:
                lead = int(new.start > 0)
                leads += lead
                at[name] = new.start, now + (lead + rows[new.start]) * pace[name]
        name = min(at, key=lambda key: at[key][1])
        (swath, now), run = at.pop(name), runs.running[name]
        if draw.random() < deaths:
            runs.end(run)
            continue
        times[swath] += 1
        list(runs.advance(run, lambda index: times[index] > 0))
        if run.next >= run.stop:
            runs.end(run)
        else:
            at[name] = run.next, now + rows[run.next] * pace[name]
    return times, now, leads


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=150), st.integers(1, 9), st.integers(), st.floats(0, 0.4)
)
def test_every_swath_is_computed_once_whoever_dies(
    rows: list[int], workers: int, seed: int, deaths: float
) -> None:
    times, _, _ = carry_out(rows, workers, seed, deaths)
    assert times == [1] * len(rows)


@pytest.mark.parametrize(("rows", "workers"), [(45, 2), (240, 2), (240, 8), (1000, 16), (10_000, 4)])
def test_workers_of_one_speed_lose_little_to_rows_computed_twice(rows: int, workers: int) -> None:
    _, seconds, leads = carry_out([1] * rows, workers)
    assert leads <= rows / MOST_ROWS + 3 * workers
    assert seconds <= 1.05 * rows / workers + 3


def test_a_slow_worker_holds_nobody_up() -> None:
    speeds = [1.0, 1.0, 1.0, 5.0]
    _, seconds, _ = carry_out([1] * 120, 4, speeds=speeds)
    best = 120 / sum(1 / speed for speed in speeds)
    assert seconds <= 1.4 * best  # four times as long if nobody took its rows over


def test_a_worker_without_a_run_takes_over_the_end_of_the_longest() -> None:
    runs = Runs([1] * 20, "run")
    first = runs.take("a", 1)
    assert first is not None
    assert (first.start, first.stop) == (0, 20)
    list(runs.advance(first, lambda index: index < 4))
    found = runs.split(1)
    assert found == (first, 13)  # half of one and 8 for the one, 7 and a row above for the other
    runs.shorten(*found)
    second = runs.take("b", 1)
    assert second is not None
    assert (second.start, second.stop) == (13, 20)


def test_what_is_too_short_for_two_is_left_alone() -> None:
    runs = Runs([1] * 3, "run")
    assert runs.take("a", 1) is not None
    assert runs.split(1) is None
