"""Points, polygons and lines; against OpenCV's own polygon test."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeinfer.runtime.rules.geometry import (
    Point,
    Polygon,
    anchor_of,
    area,
    crossing_share,
    distance_to_right,
    is_inside,
    length,
)

share = st.floats(0.0, 1.0, width=32)
point = st.tuples(share, share)


@given(point, st.lists(point, min_size=3, max_size=9).map(tuple))
def test_inside_is_what_opencv_says_it_is(where: Point, polygon: Polygon) -> None:
    corners = np.array(polygon, np.float32)
    distance = cv2.pointPolygonTest(corners, where, True)
    assume(abs(distance) > 1e-4)  # on the edge either answer is right
    assert is_inside(where, polygon) == (distance > 0)


@given(st.lists(point, min_size=3, max_size=9).map(tuple))
def test_the_area_is_what_opencv_says_it_is(polygon: Polygon) -> None:
    assert area(polygon) == pytest.approx(cv2.contourArea(np.array(polygon, np.float32)), abs=1e-5)


@pytest.mark.parametrize("anchor", ["bottom", "centre"])
def test_a_box_on_the_edge_of_the_picture_stands_in_a_zone_that_reaches_it(anchor: str) -> None:
    whole: Polygon = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    for box in ((0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), (0.0, 0.5, 0.0, 1.0), (0.5, 0.5, 1.0, 1.0)):
        assert is_inside(anchor_of(box, anchor), whole)


def test_the_anchor_is_where_a_thing_stands_or_its_middle() -> None:
    assert anchor_of((0.2, 0.1, 0.4, 0.9), "bottom") == pytest.approx((0.3, 0.9))
    assert anchor_of((0.2, 0.1, 0.4, 0.9), "centre") == pytest.approx((0.3, 0.5))


def test_right_is_the_right_hand_of_who_walks_along_the_line() -> None:
    """In the picture y grows downwards: who walks to the right has the lower half to the right."""
    line = ((0.2, 0.5), (0.8, 0.5))
    assert distance_to_right((0.5, 0.7), line) == pytest.approx(0.2)
    assert distance_to_right((0.5, 0.4), line) == pytest.approx(-0.1)
    assert distance_to_right((0.5, 0.7), (line[1], line[0])) == pytest.approx(-0.2)


@given(point, point, point, point)
def test_a_crossing_lies_on_the_line_where_both_ways_meet(a: Point, b: Point, start: Point, end: Point) -> None:
    line = (a, b)
    assume(length(line) > 0.05)
    assume(distance_to_right(start, line) * distance_to_right(end, line) < -1e-4)
    at = crossing_share(start, end, line)
    meeting = (a[0] + at * (b[0] - a[0]), a[1] + at * (b[1] - a[1]))
    assert abs(distance_to_right(meeting, line)) < 1e-6
    if math.dist(start, end) > 1e-3:
        assert abs(distance_to_right(meeting, (start, end))) < 1e-5
