"""A stream for tests: counts ticks by key in state, and appends each (key, tick, count) to a file, at least once.

It ends when the job is cancelled: with --shutdown_sources_after_idle_ms it would end by itself, but take no checkpoint.
Run as a script: what `__main__` defines is pickled by value, so that workers need not find this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.utils.timestamp import Duration

KEYS = 4


class Ticks(beam.DoFn, RestrictionProvider):
    """element: (first moment, number of ticks, seconds between them). Gives the numbers of the ticks that are due.

    Twice a second is often enough: each deferral is a column family of its own in RocksDB (Beam issue 27648).
    """

    def initial_restriction(self, element):
        return OffsetRange(0, element[1])

    def create_tracker(self, restriction):
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element, restriction):
        return restriction.size()

    @beam.DoFn.unbounded_per_element()
    def process(self, element, tracker=beam.DoFn.RestrictionParam()):  # noqa: B008
        start, number, every = element
        tick = tracker.current_restriction().start
        while tick < number and start + tick * every <= time.time():
            if not tracker.try_claim(tick):
                return
            yield tick
            tick += 1
        if tick < number:
            tracker.defer_remainder(Duration(seconds=0.5))
        else:
            tracker.try_claim(number)


class Count(beam.DoFn):
    SEEN = ReadModifyWriteStateSpec("seen", VarIntCoder())

    def process(self, element, seen=beam.DoFn.StateParam(SEEN)):  # noqa: B008
        key, tick = element
        count = (seen.read() or 0) + 1
        seen.write(count)
        yield key, tick, count


class Append(beam.DoFn):
    def __init__(self, path):
        self.path = path

    def process(self, element):
        with Path(self.path).open("a", encoding="utf-8") as file:  # one short write: whole, whoever else appends
            file.write(" ".join(map(str, element)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--every", type=float, default=0.1)
    own, rest = parser.parse_known_args()
    with beam.Pipeline(options=PipelineOptions(rest)) as pipeline:
        ticks = pipeline | beam.Create([(time.time(), own.ticks, own.every)]) | beam.ParDo(Ticks())
        keyed = ticks | beam.Map(lambda tick, keys=KEYS: (tick % keys, tick))
        _ = keyed | beam.ParDo(Count()) | beam.ParDo(Append(own.out))


if __name__ == "__main__":
    main()
