import threading
import warnings

import pytest
from commands import HANG

from pfmap.core.errors import quietly

EXPECTED = "Dataset has no geotransform, gcps, or rpcs"


def test_only_what_is_expected_is_left_out_and_only_inside() -> None:
    with quietly():
        warnings.warn(EXPECTED, stacklevel=1)
        with pytest.raises(UserWarning, match="else"):
            warnings.warn("something else", stacklevel=1)
    with pytest.raises(UserWarning, match="geotransform"):
        warnings.warn(EXPECTED, stacklevel=1)


def test_a_thread_that_leaves_early_changes_nothing_for_others() -> None:
    """Two threads inside at once, the first to come leaves first: what catch_warnings gets wrong."""
    before = list(warnings.filters)
    steps = [threading.Event() for _ in range(3)]
    errors: list[Exception] = []

    def first() -> None:
        with quietly():
            steps[0].set()
            steps[1].wait(HANG)
        steps[2].set()

    def second() -> None:
        steps[0].wait(HANG)
        with quietly():
            steps[1].set()
            steps[2].wait(HANG)
            try:
                warnings.warn(EXPECTED, stacklevel=1)
            except UserWarning as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert not errors
    assert list(warnings.filters) == before
