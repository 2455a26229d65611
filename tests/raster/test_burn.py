"""Geometries to pixels: a pixel belongs to what its centre lies in."""

import numpy as np
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pfmap.core.grid import Span
from pfmap.raster.align import burn, burn_values

ROWS, COLS = Span(10, 40), Span(5, 45)
corners = st.tuples(st.integers(0, 5000), st.integers(0, 5000)).map(lambda at: (at[0] / 100, at[1] / 100))
CENTERS = shapely.points(*np.meshgrid(np.arange(5, 45) + 0.5, np.arange(10, 40) + 0.5))


@given(st.lists(corners, min_size=3, max_size=3), st.lists(corners, min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
def test_pixels_have_what_their_centres_lie_in(one: list, other: list) -> None:
    shapes = [shapely.Polygon(one), shapely.Polygon(other)]
    assume(min(shape.area for shape in shapes) > 0.1)
    near = shapely.distance(CENTERS[..., None], shapely.boundary(np.array(shapes))).min(axis=-1) < 1e-6
    inside = shapely.contains(np.array(shapes), CENTERS[..., None])
    burnt = burn(shapes, ROWS, COLS)
    assert burnt.shape == (30, 40)
    assert np.array_equal(burnt[~near], inside.any(axis=-1)[~near])
    values = burn_values([(shapes[0], 7), (shapes[1], 9)], ROWS, COLS, 255)
    assert np.array_equal(values[~near], np.select([inside[..., 1], inside[..., 0]], [9, 7], 255)[~near])


def test_touching_is_enough_where_it_is_asked_for() -> None:
    thin = [shapely.box(20.1, 15.1, 20.2, 35.9)]
    assert not burn(thin, ROWS, COLS).any()
    touched = burn(thin, ROWS, COLS, touched=True)
    assert {tuple(at) for at in np.argwhere(touched).tolist()} == {(row, 15) for row in range(5, 26)}
    assert not burn([], ROWS, COLS).any()
    assert (burn_values([], ROWS, COLS, 3) == 3).all()
