"""Which row goes with which column: the pairing of the greatest total weight, exactly.

Shortest augmenting paths with potentials, after R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for
dense and sparse linear assignment problems", Computing 38 (1987). Most frames need none of it: where every row likes
another column best, that is the answer already.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["assign"]

Pairs = list[tuple[int, int]]

_FREE = -1


def assign(weights: npt.NDArray[np.float64]) -> Pairs:
    """Pairs (row, column) of `weights` (rows, columns), each row and column in one at most, of the greatest sum.

    Only weights above 0 are paired; a row without a partner costs nothing.
    """
    if not weights.size:
        return []
    liked = zip(weights.argmax(axis=1).tolist(), weights.max(axis=1).tolist(), strict=True)
    pairs = [(row, column) for row, (column, weight) in enumerate(liked) if weight > 0.0]
    if len({column for _, column in pairs}) == len(pairs):
        return pairs
    rows = [row for row, _ in pairs]
    columns = np.flatnonzero((weights[rows] > 0.0).any(axis=0))
    part = weights[rows][:, columns]
    costs = np.hstack([-np.maximum(part, 0.0), np.zeros((len(rows), len(rows)))])  # and a column for no partner
    found = _Matching(costs.tolist()).solve()
    return [
        (rows[row], int(columns[column]))
        for row, column in enumerate(found)
        if column < len(columns) and part[row, column] > 0.0
    ]


class _Matching:
    """Rows matched to columns of the least total cost; there are at least as many columns as rows.

    Costs reduced by the potentials of row and column are never below 0, and 0 for what is matched.
    """

    def __init__(self, costs: Sequence[Sequence[float]]) -> None:
        self._costs = costs
        self._row_potential = [min(row) for row in costs]
        self._column_potential = [0.0] * len(costs[0])
        self._row_of = [_FREE] * len(costs[0])

    def solve(self) -> list[int]:
        """The column of each row."""
        for row in self._without_conflict():
            self._augment(row)
        found = [_FREE] * len(self._costs)
        for column, row in enumerate(self._row_of):
            if row != _FREE:
                found[row] = column
        return found

    def _without_conflict(self) -> list[int]:
        """Give each row the column that it likes best; the rows that find it taken."""
        waiting = []
        for row, least in enumerate(self._row_potential):
            column = self._costs[row].index(least)
            if self._row_of[column] == _FREE:
                self._row_of[column] = row
            else:
                waiting.append(row)
        return waiting

    def _augment(self, row: int) -> None:
        """Match `row` too, along the shortest path to a free column, by Dijkstra's algorithm on reduced costs."""
        width = len(self._row_of)
        distances, came_from, done = [math.inf] * width, [_FREE] * width, [False] * width
        shortest, column, current = 0.0, _FREE, row
        while current != _FREE:
            costs, base = self._costs[current], shortest - self._row_potential[current]
            nearest, nearest_distance = _FREE, math.inf
            for other, is_done in enumerate(done):
                if is_done:
                    continue
                length = base + costs[other] - self._column_potential[other]
                if length < distances[other]:
                    distances[other], came_from[other] = length, column
                if distances[other] < nearest_distance:
                    nearest, nearest_distance = other, distances[other]
            column, shortest = nearest, nearest_distance
            done[column] = True
            current = self._row_of[column]
        self._row_potential[row] += shortest
        self._move_potentials([other for other, is_done in enumerate(done) if is_done], distances, shortest)
        self._turn_over(came_from, column, row)

    def _move_potentials(self, columns: Sequence[int], distances: Sequence[float], shortest: float) -> None:
        for column in columns:
            slack = shortest - distances[column]
            self._column_potential[column] -= slack
            if self._row_of[column] != _FREE:
                self._row_potential[self._row_of[column]] += slack

    def _turn_over(self, came_from: Sequence[int], column: int, row: int) -> None:
        """Along the path that ends in the free `column`, each row takes the next column; `row` takes the first."""
        while came_from[column] != _FREE:
            self._row_of[column] = self._row_of[came_from[column]]
            column = came_from[column]
        self._row_of[column] = row
