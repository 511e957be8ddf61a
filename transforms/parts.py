"""Names of a stream's inputs: a partition of a topic by its offsets, or one landed file by the number of its delivery."""

from __future__ import annotations

FILES = "file:"
TOPICS = "kafka:"


def file_part(seq: int) -> str:
    """The part that a landed file is.

    >>> file_part(3), is_file("file:3"), is_file("kafka:readings/0")
    ('file:3', True, False)
    """
    return f"{FILES}{seq}"


def is_file(part: str) -> bool:
    """Whether a part is a landed file."""
    return part.startswith(FILES)


def partition_part(topic: str, partition: int) -> str:
    """The part that a partition is.

    >>> partition_of(partition_part("readings", 7))
    ('readings', 7)
    """
    return f"{TOPICS}{topic}/{partition}"


def is_partition(uri: str) -> bool:
    """Whether a delivery is a stretch of a partition.

    >>> is_partition("kafka:readings/0:100-200"), is_partition("/landing/readings.csv")
    (True, False)
    """
    return uri.startswith(TOPICS)


def partition_of(part: str) -> tuple[str, int]:
    """The inverse of `partition_part`."""
    topic, partition = part.removeprefix(TOPICS).rsplit("/", 1)
    return topic, int(partition)
