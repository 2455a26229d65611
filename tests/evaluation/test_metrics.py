"""Figures against scikit-learn, and against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pfmap.evaluation import metrics

CLASSES = 5


def confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    counts = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return counts


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
@settings(deadline=None)
def test_figures_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    scores, *_ = metrics.class_scores(confusion(truth, predicted), np.eye(CLASSES, dtype=bool))
    occurs = np.isin(np.arange(CLASSES), np.concatenate([truth, predicted]))
    options = {"labels": np.flatnonzero(occurs), "average": None, "zero_division": 0.0}
    means = metrics.mean_of(metrics.Scores, scores)
    for name, theirs in (
        ("iou", sk.jaccard_score),
        ("f1", sk.f1_score),
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
    ):
        ours = np.array([getattr(score, name) for score in scores])
        np.testing.assert_allclose(ours[occurs], theirs(truth, predicted, **options))
        assert np.isnan(ours[~occurs]).all()
        assert getattr(means, name) == pytest.approx(np.mean(theirs(truth, predicted, **options)))
    accuracy = metrics.overall_accuracy(confusion(truth, predicted), np.eye(CLASSES, dtype=bool))
    assert accuracy == pytest.approx(sk.accuracy_score(truth, predicted))


def test_a_partial_label_serves_the_class_that_it_excludes() -> None:
    allowed = np.array([[True, False, False], [False, True, True], [False, True, False]])
    counts = np.array([[8, 1, 1], [4, 30, 26], [0, 5, 5]])
    scores, *_ = metrics.class_scores(counts, allowed)
    assert scores[0].precision == pytest.approx(8 / 12)
    assert scores[0].iou == pytest.approx(8 / (10 + 4))
    # Of class 1 only the sure label counts as truth, and only what excludes it as a false alarm.
    assert scores[1].recall == pytest.approx(5 / 10)
    assert scores[1].precision == pytest.approx(5 / 6)
    assert metrics.overall_accuracy(counts, allowed) == pytest.approx(13 / 20)
    assert metrics.settled(counts, allowed).tolist() == [True, False, False]
    counts[1] = 0
    assert metrics.settled(counts, allowed).tolist() == [True, True, True]


def test_classes_that_never_occur_have_no_figures_and_no_say() -> None:
    counts = np.diag([5, 0, 3])
    scores, *_ = metrics.class_scores(counts, np.eye(3, dtype=bool))
    assert np.isnan(scores[1].iou)
    assert metrics.mean_of(metrics.Scores, scores).iou == 1
    nothing = np.zeros((3, 3), dtype=np.int64)
    scores, *_ = metrics.class_scores(nothing, np.eye(3, dtype=bool))
    assert np.isnan(metrics.mean_of(metrics.Scores, scores).iou)
    assert np.isnan(metrics.overall_accuracy(nothing, np.eye(3, dtype=bool)))


def test_matches_become_precision_recall_and_f1() -> None:
    counts = ((3, 4, 3, 6), (0, 2, 0, 0), (0, 0, 0, 5), (0, 0, 0, 0))
    matches = [metrics.match_scores(*each) for each in counts]
    np.testing.assert_allclose([match.precision for match in matches], [0.75, 0, 0, np.nan])
    np.testing.assert_allclose([match.recall for match in matches], [0.5, 0, 0, np.nan])
    np.testing.assert_allclose([match.f1 for match in matches], [0.6, 0, 0, np.nan])


@given(
    st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=80),
    st.sampled_from([10, 15, 20]),
)
@settings(deadline=None)
def test_the_calibration_error_is_that_of_its_definition(pixels: list[tuple[int, bool]], bins: int) -> None:
    right, wrong = np.zeros(101, dtype=np.int64), np.zeros(101, dtype=np.int64)
    for percent, hit in pixels:
        (right if hit else wrong)[percent] += 1
    found = metrics.calibration(right, wrong, bins)
    expected = 0.0
    for k in range(bins):
        # Integers: percent / 100 in (k / bins, (k + 1) / bins]; 0 belongs to the first bin.
        inside = [(c, hit) for c, hit in pixels if k * 100 < c * bins <= (k + 1) * 100 or (k == 0 and c == 0)]
        assert found.pixels[k] == len(inside)
        if inside:
            confidence, accuracy = np.mean([c / 100 for c, _ in inside]), np.mean([hit for _, hit in inside])
            assert found.confidence[k] == pytest.approx(confidence)
            assert found.accuracy[k] == pytest.approx(accuracy)
            expected += len(inside) / len(pixels) * abs(confidence - accuracy)
        else:
            assert np.isnan(found.confidence[k])
    assert found.error == pytest.approx(expected)


def test_without_pixels_there_is_no_calibration() -> None:
    none = np.zeros(101, dtype=np.int64)
    assert np.isnan(metrics.calibration(none, none).error)
