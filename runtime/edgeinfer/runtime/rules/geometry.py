"""Points, polygons and lines in 0..1 of a picture, y downwards."""

import math

__all__ = [
    "Box",
    "Line",
    "Point",
    "Polygon",
    "anchor_of",
    "area",
    "crossing_share",
    "distance_to_right",
    "is_inside",
    "length",
]

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Line = tuple[Point, Point]
Box = tuple[float, float, float, float]

# Boxes are cut at the picture's edges, and so are zones: what stands on the edge of both is inside.
_EDGE = 1e-6


def anchor_of(box: Box, anchor: str) -> Point:
    """The point of a box (x1, y1, x2, y2) that counts: `bottom` centre or `centre`, a hair's breadth off the edges."""
    x1, y1, x2, y2 = box
    y = y2 if anchor == "bottom" else (y1 + y2) / 2
    return min(max((x1 + x2) / 2, _EDGE), 1.0 - _EDGE), min(max(y, _EDGE), 1.0 - _EDGE)


def area(polygon: Polygon) -> float:
    """By the shoelace formula, without its sign."""
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2


def is_inside(point: Point, polygon: Polygon) -> bool:
    """Whether a ray from `point` to the right meets the polygon's edges an odd number of times (even-odd rule)."""
    x, y = point
    inside = False
    x1, y1 = polygon[-1]
    for x2, y2 in polygon:
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
        x1, y1 = x2, y2
    return inside


def length(line: Line) -> float:
    (x1, y1), (x2, y2) = line
    return math.hypot(x2 - x1, y2 - y1)


def distance_to_right(point: Point, line: Line) -> float:
    """How far `point` is from the line, without end: to the right of who walks from its first point to its second
    above 0, to the left below."""
    (x1, y1), (x2, y2) = line
    return ((x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)) / length(line)


def crossing_share(start: Point, end: Point, line: Line) -> float:
    """Where the way from `start` to `end`, which lie on different sides, meets the line: 0 at the line's first
    point, 1 at its second; outside of 0..1 it goes past the line's ends."""
    from_start, from_end = distance_to_right(start, line), distance_to_right(end, line)
    share = from_start / (from_start - from_end)
    x, y = start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])
    (x1, y1), (x2, y2) = line
    return ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length(line) ** 2
