"""The one element that a stream of landed files begins with comes once, though its step gives way and comes back."""

from __future__ import annotations

from apache_beam.testing.util import assert_that, equal_to

from pipelines.runner import new_pipeline
from tests.test_graph import strange_coders
from transforms.begin import START, Begin


def test_it_comes_once_and_nothing_is_pickled():
    with new_pipeline([]) as p:
        begun = p | Begin()
        assert strange_coders(p.to_runner_api()) == []
        assert_that(begun, equal_to([START]))
