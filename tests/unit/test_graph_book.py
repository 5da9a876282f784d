"""Numbers of graphs: each has one, and what is kept of them is bounded."""

from __future__ import annotations

import itertools
import os

from flowprof.profiler.ggml.graphs import MAX_UNDESCRIBED, GraphBook


def test_an_undescribed_graph_keeps_its_number_among_the_last_ones() -> None:
    book = GraphBook(os.getpid(), [], itertools.count(1).__next__)
    numbers = [book.get(key).graph_id for key in range(MAX_UNDESCRIBED + 10)]
    assert numbers == list(range(1, MAX_UNDESCRIBED + 11))
    assert book.get(MAX_UNDESCRIBED + 9).graph_id == numbers[-1]
    assert book.get(10).graph_id == numbers[10]
    assert len(book._unknown) == MAX_UNDESCRIBED
    assert book.get(0).graph_id == MAX_UNDESCRIBED + 11  # it was forgotten
