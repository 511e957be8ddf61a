"""Registers made of the real days, late and all: in the end the marts are those of the plain daily values."""

from __future__ import annotations

import shutil

import duckdb
import pytest

from pipelines.config import load_config
from pipelines.run import run
from pipelines.verify import verify
from schemas.marts import MARTS, RUN_METADATA
from tests.pipeline.streams import Epochs
from tests.real.conftest import FIXTURE, REAL, Example, data_folder
from tests.real.registers import LATE_DAYS, Dials

pytestmark = pytest.mark.slow


def assert_equal_marts(one, other):
    """Every mart that tells of customers has the same rows in both, each as often."""
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{one}' AS one (READ_ONLY); ATTACH '{other}' AS two (READ_ONLY)")
        for mart in MARTS.keys() - set(RUN_METADATA):
            for a, b in (("one", "two"), ("two", "one")):
                only = con.sql(f"FROM (FROM {a}.{mart} EXCEPT ALL FROM {b}.{mart}) LIMIT 3").fetchall()
                assert not only, f"{mart}: rows that only {a} has"
        assert con.execute("SELECT count(*) > 0 FROM two.features").fetchone() == (True,)


def in_parts(dials):
    """Days by whose end a run takes in what has arrived; the last readings come weeks after the last day."""
    return [dials.days // 2, dials.days * 3 // 4, dials.days - 1, dials.days + LATE_DAYS]


@pytest.fixture(scope="module")
def half_a_year(tmp_path_factory):
    """The example with the first half of 2015 of every enterprise: two runs over all 547 days are eight minutes of CI."""
    data, file = tmp_path_factory.mktemp("half"), "tianchi/Tianchi_power.csv.gz"
    (data / "tianchi").mkdir()
    shutil.copytree(data_folder() / "receivables", data / "receivables")
    with duckdb.connect() as con:
        con.execute(
            f"COPY (FROM read_csv('{data_folder() / file}', all_varchar = true)"
            " WHERE strptime(record_date, '%Y/%m/%d') < DATE '2015-07-01')"
            f" TO '{data / file}' (FORMAT csv, HEADER, COMPRESSION gzip)"
        )
    return Example("tianchi", data, tmp_path_factory.mktemp("data"))


def test_once_all_has_arrived_the_marts_are_those_of_the_daily_values(half_a_year):
    tianchi = half_a_year
    plain = load_config(tianchi.config("plain"))
    run(plain, audit=False)
    dials = Dials(tianchi.data / "tianchi" / "Tianchi_power.csv.gz")
    assert min(dials.turned, dials.exchanged, dials.late) > (5 if REAL else 1)
    config = load_config(dials.configure(tianchi.folder))
    estimated, first = [], 0
    for last in in_parts(dials):
        dials.land(tianchi.folder, first, last)
        report = run(config, audit=False)
        first = last + 1
        with duckdb.connect(str(tianchi.marts("registers")), read_only=True) as con:
            estimated.append(con.execute("SELECT sum(meters_estimated) FROM daily_consumption").fetchone()[0])
    assert report.restated_from is not None
    assert min(estimated[:-1]) > 0  # days between late readings were shared, until each came
    assert estimated[-1] == 0
    assert_equal_marts(tianchi.marts("plain"), tianchi.marts("registers"))
    assert verify(str(tianchi.marts("registers")), config.policy, sample=20).ok


def test_the_same_through_a_stream(small_tianchi):
    """The epochs of a stream take in the parts; the small example, whether or not there are real files."""
    plain = load_config(small_tianchi.config("plain"))
    run(plain, audit=False)
    dials = Dials(FIXTURE / "tianchi" / "Tianchi_power.csv.gz")

    class Folder:
        config = load_config(dials.configure(small_tianchi.folder))

    epochs, first = Epochs(Folder), 0
    for last in in_parts(dials):
        dials.land(small_tianchi.folder, first, last)
        epochs.cut()
        first = last + 1
    epochs.run()
    epochs.publish()
    assert_equal_marts(small_tianchi.marts("plain"), small_tianchi.marts("registers"))


def test_two_rates_through_a_stream(tmp_path, tmp_path_factory):
    """The Slovak example's mapping, by an epoch and by a bounded run."""
    example = Example("slovak", FIXTURE, tmp_path)
    run(load_config(example.config("plain")), audit=False)

    class Folder:
        config = load_config(example.config("stream"))

    epochs = Epochs(Folder)
    epochs.cut()
    epochs.run()
    epochs.publish()
    assert_equal_marts(example.marts("plain"), example.marts("stream"))
    shutil.rmtree(example.folder)
