"""The one element that a stream begins with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from transforms.blocks import Keyed, tag
from transforms.epochs import NOTHING
from transforms.kafka_spans import NO_DAY, Span, SpanProvider

START: Keyed = (0, tag(NOTHING, "start"))
"""What tells the cutter to begin."""


class OnceProvider(SpanProvider):
    """One offset to give, and one to come back for."""

    def initial_restriction(self, element: Any) -> Span:
        """Both."""
        return Span((0, 2), NO_DAY)


@beam.typehints.with_output_types(Keyed)
class BeginOnce(beam.DoFn):
    """Any one element -> START, after which it gives way once.

    Prism hands elements to a stateful step when its watermark has moved, and the cutter's timer holds that back; or once
    any step of the job has given way in the middle of its work (Beam issue 39446). Those that read partitions do so.
    """

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: Any,
        tracker: Any = beam.DoFn.RestrictionParam(OnceProvider()),  # noqa: B008
    ) -> Iterator[Keyed]:
        """element: anything."""
        (position, _), _ = tracker.current_restriction()
        tracker.try_claim((position, NO_DAY))
        if position == 0:
            yield START
            tracker.defer_remainder()


class Begin(beam.PTransform):
    """Nothing -> START, in a stream that reads no partitions."""

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Keyed]:
        """An impulse, and the one that gives way."""
        return begin | beam.Impulse() | "BeginOnce" >> beam.ParDo(BeginOnce())
