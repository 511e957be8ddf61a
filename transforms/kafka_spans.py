"""How far a partition was read: the restriction of the splittable DoFn, its tracker, and a watermark made of days."""

from __future__ import annotations

from typing import NamedTuple

from apache_beam.coders import Coder, TupleCoder, VarIntCoder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from transforms.kafka_partitions import Partition

END = (1 << 63) - 1
NO_DAY = -(1 << 31)
DAY_MICROS = 86_400_000_000


class Span(NamedTuple):
    """Offsets from the first up to but without the second, and the latest day seen before them, NO_DAY where none was.

    Pairs in pairs, as Beam's own coders have them.
    """

    offsets: tuple[int, int]
    last_day: int


class SpanTracker(RestrictionTracker):
    """Tracks (offset, latest day up to it). A span is cut behind what was claimed, nowhere else: one reader per partition."""

    def __init__(self, span: Span) -> None:
        (self._start, self._stop), self._day_before = span
        self._next, self._last_day = self._start, self._day_before

    def current_restriction(self) -> Span:
        """What this bundle has."""
        return Span((self._start, self._stop), self._day_before)

    def current_progress(self) -> RestrictionProgress:
        """How much of it is done; what will come is not known."""
        return RestrictionProgress(completed=float(self._next - self._start), remaining=1.0)

    def try_claim(self, position: tuple[int, int]) -> bool:
        """Take everything up to and with an offset, unless the span ends before it. position: (offset, latest day)."""
        offset, last_day = position
        if offset < self._next:
            raise ValueError(f"offset {offset} is claimed after {self._next - 1}")
        if offset >= self._stop:
            return False
        self._next, self._last_day = offset + 1, last_day
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Span, Span] | None:
        """Cut behind what was claimed, at a checkpoint."""
        if fraction_of_remainder != 0 or self._next >= self._stop:
            return None
        rest = self.rest()
        self._stop = self._next
        return self.current_restriction(), rest

    def rest(self) -> Span:
        """What was not claimed."""
        return Span((self._next, self._stop), self._last_day)

    def check_done(self) -> None:
        """Raises ValueError where a bundle ended without handing the rest on."""
        if self._next < self._stop:
            raise ValueError(f"the bundle ended before offset {self._next}, and the rest was not deferred")

    def is_bounded(self) -> bool:
        """A partition has no end."""
        return False


class SpanProvider(RestrictionProvider):
    """A partition's offsets from its start to infinity, in one span."""

    def initial_restriction(self, element: str) -> Span:
        """From where the descriptor says."""
        return Span((Partition.from_json(element).start, END), NO_DAY)

    def create_tracker(self, restriction: Span) -> SpanTracker:
        """A tracker of a span."""
        return SpanTracker(restriction)

    def restriction_size(self, element: str, restriction: Span) -> float:
        """All partitions are alike."""
        return 1.0

    def restriction_coder(self) -> Coder:
        """Whole numbers in pairs: nothing is pickled."""
        return TupleCoder([TupleCoder([VarIntCoder(), VarIntCoder()]), VarIntCoder()])


class DayWatermark(ManualWatermarkEstimator):
    """A watermark that never goes back. Its state is microseconds, Beam's earliest moment while nothing is known."""

    def __init__(self, micros: int) -> None:
        super().__init__(Timestamp(micros=micros) if micros > MIN_TIMESTAMP.micros else None)

    def get_estimator_state(self) -> int:
        """Microseconds since 1970."""
        now = self.current_watermark()
        return int((MIN_TIMESTAMP if now is None else now).micros)

    def reach_day(self, day: int) -> None:
        """Advance to the start of a day, UTC, unless it is further already. day: days since 1970."""
        start = Timestamp(micros=day * DAY_MICROS)
        now = self.current_watermark()
        if now is None or start > now:
            self.set_watermark(start)


class DayWatermarkProvider(WatermarkEstimatorProvider):
    """Makes the watermark of a partition."""

    def initial_estimator_state(self, element: str, restriction: Span) -> int:
        """Nothing is known."""
        return int(MIN_TIMESTAMP.micros)

    def create_watermark_estimator(self, estimator_state: int) -> DayWatermark:
        """From where it was."""
        return DayWatermark(estimator_state)

    def estimator_state_coder(self) -> Coder:
        """A whole number: nothing is pickled."""
        return VarIntCoder()
