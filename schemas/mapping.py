"""Source mappings: how a utility's own extract is read. The `sources:` part of `wattier.yaml`."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, timedelta, tzinfo
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas.dateformat import date_pattern
from schemas.document import MISSING, fault_line
from schemas.errors import ConfigError
from schemas.fields import TEXT, WH, Column
from schemas.inbound import INDEX_COLUMNS, INDEX_LIMIT, MEASURES, PERIODS, READ_AT, SOURCES
from schemas.kafka import Topic

UNITS: dict[str, dict[str, int]] = {
    "Wh": {"Wh": 0, "kWh": 3, "MWh": 6, "GWh": 9},
    "thousandths of a Wh": {"mWh": 0, "Wh": 3, "kWh": 6, "MWh": 9},
    "W": {"W": 0, "kW": 3, "MW": 6, "GW": 9},
    "thousandths of a W": {"mW": 0, "W": 3, "kW": 6, "MW": 9},
    "times": {"times": 0},
    "ppm a day": {"ppm": 0, "permille": 3, "percent": 4},
    "VA": {"VA": 0, "kVA": 3, "MVA": 6},
    "minor units": {"minor": 0, "fen": 0, "cent": 0, "jiao": 1, "yuan": 2, "euro": 2, "dollar": 2, "major": 2},
    "billionths of a major unit": {
        "nano": 0, "micro": 3, "fen": 7, "cent": 7, "jiao": 8, "yuan": 9, "euro": 9, "dollar": 9, "major": 9,
    },
}  # fmt: skip
"""Unit of a schema column -> units a source may deliver it in -> power of ten from the one to the other."""

Kind = Literal["number", "day", "flag", "code", "id", "text"]
OPTIONS: dict[Kind, tuple[str, ...]] = {
    "number": ("unit", "round"),
    "day": ("columns", "format", "shift_days", "time_of_day"),
    "flag": ("map",),
    "code": ("map",),
    "id": (),
    "text": ("map",),
}
"""What a mapped column may set beside `column` and `empty`, by its kind."""

DEFAULTS: dict[str, dict[str, str]] = {
    "meter_readings": {"quality": "actual"},
    "register_readings": {"quality": "actual"},
}
"""Required columns that a mapping may leave out all the same, and the value they then have."""

REGISTER = "register"
LONG: dict[str, tuple[Column, Column]] = {
    "register_readings": (
        Column(REGISTER, TEXT, "Which register the row is of; a code mapped to nothing: one that is not wanted", nullable=True,
               values=MEASURES),
        Column("index", WH, "Index as read, before the multiplier; of a maximum demand in kW where others are in kWh",
               "thousandths of a Wh", minimum=0, maximum=INDEX_LIMIT - 1),
    ),
}  # fmt: skip
"""Columns of sources that may be delivered one value a row: they stand for `index_total`, `index_peak` and so on."""

CURRENCY = Column("currency", TEXT, "Currency of the amount; empty: the one that the mapping names", nullable=True)
HELD_AGAINST: dict[str, tuple[Column, ...]] = {"ledger_events": (CURRENCY,)}
"""Columns of sources that may be delivered for a row to be held against what the mapping says. They are not kept."""

EVENT_DAYS = ("service_date", "event_date")
REFERENCE_DAYS = ("valid_from", "opened_on", "closed_on", "installed_on", "removed_on")
CENTURY_BACK = date(1900, 1, 1)


def kind_of(column: Column) -> Kind:
    """How the values of a schema column are read. Ids are codes of the utility: keys and names of things."""
    if pa.types.is_integer(column.type):
        return "number"
    if pa.types.is_date(column.type):
        return "day"
    if pa.types.is_boolean(column.type):
        return "flag"
    if column.values:
        return "code"
    return "id" if column.key or column.privacy == "pseudonymous" else "text"


class Refused(ValueError):
    """A value refused by a rule that spans several keys: where below the model, the value, and what is allowed."""

    def __init__(self, path: str, value: object, allowed: str) -> None:
        self.path, self.value, self.allowed = path, value, allowed
        super().__init__(f"{path}: {value!r}: {allowed}")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tolerance(_Model):
    """How far from midnight a time of day may be."""

    within_minutes: int = Field(ge=1, le=719)


class ColumnMapping(_Model):
    """Where one schema column comes from: a column of the source, or a constant. A day may be in several columns: their values
    are read as one, with `-` between them.
    """

    column: str | None = None
    columns: tuple[str, ...] = ()
    constant: str | int | bool | date | None = None
    unit: str | None = None
    round: Literal["half_up"] | None = None
    format: str | None = None
    map: dict[str, str | bool | None] | None = None
    empty: tuple[str, ...] = ()
    shift_days: int = Field(default=0, ge=-36_525, le=36_525)
    time_of_day: Literal["midnight", "drop"] | Tolerance = "midnight"

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @field_validator("map", mode="before")
    @classmethod
    def _plain_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if any(isinstance(key, bool) or not isinstance(key, str | int) for key in value):
            raise ValueError("codes must be text; put quotes around yes, no, true and false")
        return {str(key): target for key, target in value.items()}

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is not None:
            date_pattern(value)
        return value

    @property
    def minutes_off(self) -> int:
        """Minutes within which a time of day is the midnight beside it."""
        return self.time_of_day.within_minutes if isinstance(self.time_of_day, Tolerance) else 0

    @property
    def origins(self) -> tuple[str, ...]:
        """The columns of the source that it comes from."""
        return self.columns or ((self.column,) if self.column is not None else ())

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if [self.column is None, not self.columns, self.constant is None].count(False) != 1:
            raise ValueError("needs either `column`, or `columns` that make a day, or `constant`")
        extras = self.model_fields_set - {"constant"}
        if self.constant is not None and extras:
            raise ValueError(f"a constant takes no {', '.join(sorted(extras))}")
        return self


class Origin(_Model):
    """A date in the file's name (`revision`, `known_at`), or a column that holds the revision."""

    column: str | None = None
    file_date: str | None = None

    @field_validator("file_date")
    @classmethod
    def _date_in_name(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if "(?P<" not in value:
            date_pattern(value)
            return value
        try:
            groups = set(re.compile(value).groupindex)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if "date" not in groups and not {"year", "month", "day"} <= groups:
            raise ValueError("needs a group named date, or groups named year, month and day")
        return value


class Revision(Origin):
    """Where a row's revision comes from; neither set: the order of delivery."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {} if value == "delivery" else value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.model_fields_set and (self.column is None) == (self.file_date is None):
            raise ValueError("must be `delivery`, `{column: NAME}` or `{file_date: FORMAT}`")
        return self


class KnownAt(Origin):
    """When a delivery became known; not set: the file's time of modification."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {} if value == "modified" else value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.model_fields_set and self.file_date is None:
            raise ValueError("must be `modified` or `{file_date: FORMAT}`")
        return self


class DateBounds(_Model):
    """Which days are accepted; `SourceMapping.day_bounds` says for which columns."""

    min: date = date(2000, 1, 1)
    max_days_after_delivery: int = Field(default=1, ge=0, le=36_525)


class Version(_Model):
    """The field of a message that names its layout, and the one layout that is read."""

    field: str
    equals: StrictStr | StrictInt


class SourceMapping(_Model):
    """How the files and the messages of one source are found and read. `source` is its key under `sources:`."""

    source: str
    files: tuple[str, ...] = ()
    format: Literal["auto", "csv", "csv.gz", "parquet", "nem12", "nem13"] = "auto"
    delimiter: str = ","
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    quoting: bool = True
    columns: dict[str, ColumnMapping]
    time_zone: str = "UTC"
    revision: Revision = Revision()
    known_at: KnownAt = KnownAt()
    dates: DateBounds = DateBounds()
    topics: tuple[Topic, ...] = ()
    payload: Literal["json", "arrow"] = "json"
    version: Version | None = None
    currency: str | None = Field(default=None, pattern="^[A-Z]{3}$")

    @field_validator("source")
    @classmethod
    def _known_source(cls, value: str) -> str:
        if value not in SOURCES:
            raise ValueError(f"no such source; there are {', '.join(SOURCES)}")
        return value

    @field_validator("files", "topics", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("files")
    @classmethod
    def _inside_the_landing_folder(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or any(not name or name.startswith("/") or ".." in name.split("/") for name in value):
            raise ValueError("must be patterns relative to the landing folder, such as readings/*.csv")
        return value

    @field_validator("topics")
    @classmethod
    def _some_topic(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("must be the names of topics, each once, such as meter-readings")
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if len(value) != 1 or not value.isascii() or value.isalnum() or value in '"\r\n.':
            raise ValueError(r"must be one ASCII character, such as ',' ';' '|' or (in double quotes) \t")
        return value

    @field_validator("encoding")
    @classmethod
    def _text_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError("no such encoding; for example utf-8, gb18030, cp1252, utf-16") from None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        zone(value)
        return value

    @model_validator(mode="after")
    def _columns_fit_the_schema(self) -> Self:
        self._check_currency()
        delivered = {column.name: column for column in self.delivered}
        names = [name for name in delivered if name != "revision"]
        for name, mapped in self.columns.items():
            if name == "revision":
                raise Refused("columns.revision", mapped.column, "say it as `revision: {column: NAME}` of the source")
            if name not in names:
                raise Refused(f"columns.{name}", name, f"{self.source} has the columns {', '.join(names)}")
            _check_column(delivered[name], mapped)
        defaults, one_a_row = DEFAULTS.get(self.source, {}), [column.name for column in LONG.get(self.source, ())]
        missing = [
            n for n, column in delivered.items()
            if n != "revision" and n not in self.columns and n not in defaults
            and (n in one_a_row or not column.nullable)
        ]  # fmt: skip
        if self.sums_periods and any(f"{period}_wh" in self.columns for period in PERIODS):
            missing.remove("energy_wh")
        if one_a_row and not any(name.startswith("index") for name in self.columns):
            missing.append("index_total, or register and index,")
        if missing:
            raise Refused("columns", sorted(self.columns), f"{self.source} also needs {', '.join(missing)}")
        if one_a_row:
            self._check_total()
        return self

    def _check_total(self) -> None:
        """The energy of a day is that of the total register: it follows from no other. Raises Refused."""
        register, total = self.columns.get(REGISTER), INDEX_COLUMNS["total"]
        says = "as the energy of a day is that of the total; where meters show none, deliver the energy of days as `meter_readings`"
        if register is None and total not in self.columns:
            raise Refused("columns", sorted(self.columns), f"must map {total}, {says}")
        if register is not None:
            codes = list(register.map.values()) if register.map else [register.constant or "total"]
            if "total" not in codes:
                raise Refused(
                    f"columns.{REGISTER}", register.map or register.constant, f"must map a code to total, {says}"
                )

    def _check_currency(self) -> None:
        """Amounts are of one currency: a column that tells theirs is held against it. Raises Refused."""
        if self.currency is not None and CURRENCY not in HELD_AGAINST.get(self.source, ()):
            raise Refused("currency", self.currency, f"{self.source} has no amounts")
        if self.currency is None and CURRENCY.name in self.columns:
            raise Refused("currency", MISSING, "is missing; name the one that amounts are in, such as CNY")

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> Self:
        if not self.files and not self.topics:
            raise Refused("files", MISSING, "is missing; name `files`, `topics` of Kafka, or both")
        if not self.topics:
            for key in sorted(self.model_fields_set & {"payload", "version"}):
                raise Refused(key, getattr(self, key), "says how messages are read; name `topics`, too")
            return self
        if self.revision.file_date is not None:
            raise Refused(
                "revision.file_date", self.revision.file_date,
                "a message has no file's name; say `delivery` or `{column: NAME}` where there are `topics`",
            )  # fmt: skip
        if self.payload == "json":
            self._check_paths()
        return self

    def _check_paths(self) -> None:
        """No field of a message may be a value and hold another one. Raises Refused."""
        mapped = [(name, field) for name, of in self.columns.items() for field in of.origins]
        fields = {field for field in (*(field for _, field in mapped), self.revision.column) if field is not None}
        if self.version:
            fields.add(self.version.field)
        for name, field in mapped:
            if any(other.startswith(f"{field}.") for other in fields):
                raise Refused(f"columns.{name}", field, "is an object in the messages, as another field is inside it")

    @property
    def delivered(self) -> tuple[Column, ...]:
        """The columns that a row is read into: those of the schema, or where it holds one value a row, that one. When it was read
        follows from its service day.
        """
        columns = tuple(column for column in SOURCES[self.source].columns if column is not READ_AT)
        long = LONG.get(self.source, ())
        if any(column.name in self.columns for column in long):
            return (*(column for column in columns if column.name not in INDEX_COLUMNS.values()), *long)
        return (*columns, *(column for column in HELD_AGAINST.get(self.source, ()) if column.name in self.columns))

    @property
    def sums_periods(self) -> bool:
        """Whether the energy of a day is the sum of its periods, as the source has no total."""
        return self.source == "meter_readings" and "energy_wh" not in self.columns

    def target(self, name: str) -> Column:
        """What the values of a delivered column are read as."""
        (found,) = (column for column in self.delivered if column.name == name)
        return found

    def column(self, name: str) -> ColumnMapping | None:
        """Origin of a schema column; None where the mapping leaves a nullable column out, or for the revision."""
        if name == "revision":
            return ColumnMapping(column=self.revision.column) if self.revision.column else None
        default = DEFAULTS.get(self.source, {}).get(name)
        return self.columns.get(name, ColumnMapping(constant=default) if default else None)

    def day_bounds(self, name: str, delivered: date) -> tuple[date, date]:
        """First and last day accepted for a day column (both inclusive), of a file that came on `delivered`.

        Days of use and of events end `dates.max_days_after_delivery` later; others may lie a century ahead, and
        those of reference data may go back to 1900.
        """
        first = min(self.dates.min, CENTURY_BACK) if name in REFERENCE_DAYS else self.dates.min
        days = self.dates.max_days_after_delivery if name in EVENT_DAYS else 36_525
        return first, delivered + timedelta(days=days)

    def scale(self, name: str) -> int:
        """Power of ten from the delivered unit of a number column to the schema's integer unit."""
        mapped = self.column(name)
        units = UNITS.get(self.target(name).unit, {})
        return units[mapped.unit] if mapped and mapped.unit else 0


def _check_column(column: Column, mapped: ColumnMapping) -> None:
    """Hold one column's mapping against its schema column. Raises Refused."""
    path, kind = f"columns.{column.name}", kind_of(column)
    if mapped.constant is not None:
        return _check_constant(column, mapped.constant, kind)
    takes = OPTIONS[kind]
    for option in sorted(mapped.model_fields_set - {"column", "empty"} - set(takes)):
        allowed = ", ".join(("column", "empty", *takes))
        raise Refused(f"{path}.{option}", getattr(mapped, option), f"{column.name} takes {allowed}")
    units = UNITS.get(column.unit, {})
    if kind == "number" and (units or mapped.unit) and mapped.unit not in units:
        allowed = f"say the unit the source delivers: one of {', '.join(units)}" if units else "it has no unit"
        raise Refused(f"{path}.unit", mapped.unit or MISSING, allowed)
    targets = (True, False) if kind == "flag" else column.values
    for code, target in (mapped.map or {}).items():
        if target is None and column.nullable and kind == "code":
            continue  # a code that stands for nothing
        if (targets and target not in targets) or isinstance(target, bool) != (kind == "flag"):
            allowed = ", ".join(str(value).lower() for value in targets) or "text"
            raise Refused(f"{path}.map.{code}", target, f"must be {allowed}")
    return None


def _check_constant(column: Column, constant: object, kind: Kind) -> None:
    wanted = {"number": int, "day": date, "flag": bool}.get(kind, str)
    inside = type(constant) is wanted and (not column.values or constant in column.values)
    if isinstance(constant, int) and not isinstance(constant, bool):
        low, high = column.minimum, column.maximum
        inside = inside and (low is None or constant >= low) and (high is None or constant <= high)
    if not inside:
        words = {
            int: f"a whole number in {column.unit}",
            date: "a day such as 2015-01-31",
            bool: "true or false",
            str: "text",
        }
        allowed = f"one of {', '.join(column.values)}" if column.values else words[wanted]
        raise Refused(f"columns.{column.name}.constant", constant, f"must be {allowed}, within the schema's bounds")


def zone(name: str) -> tzinfo:
    """The time zone of that name; UTC needs no time zone database. Raises ValueError."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; use a name such as Asia/Shanghai or Europe/Paris") from None


def parse_sources(sources: object, where: str) -> dict[str, SourceMapping]:
    """Check the `sources:` part of a configuration.

    Args:
        sources: what YAML gave for it: source name -> mapping.
        where: the file, as messages shall name it.

    Returns: the mapping of each source, by name, in the file's order.
    Raises: ConfigError with one line per fault: file, path in it, value, what is allowed.
    """
    if not isinstance(sources, Mapping):
        raise ConfigError(fault_line(where, ["sources"], sources, "must be a mapping from source to how it is read"))
    parsed: dict[str, SourceMapping] = {}
    faults: list[str] = []
    for name, body in sources.items():
        path = ["sources", str(name)]
        if name not in SOURCES:
            faults.append(fault_line(where, path, name, f"no such source; there are {', '.join(SOURCES)}"))
        elif not isinstance(body, Mapping) or "source" in body:
            faults.append(fault_line(where, path, body, f"must be a mapping with the keys {_keys(SourceMapping)}"))
        else:
            try:
                parsed[name] = SourceMapping.model_validate({"source": name, **body})
            except ValidationError as error:
                faults += [fault_line(where, [*path, *at], value, allowed) for at, value, allowed in _faults(error)]
    readers: dict[str, str] = {}
    for name, mapping in parsed.items():
        for topic in mapping.topics:
            if readers.setdefault(topic, name) != name:
                says = f"is a topic of {readers[topic]} already"
                faults.append(fault_line(where, ["sources", name, "topics"], topic, says))
    if faults:
        raise ConfigError("\n".join(faults))
    return parsed


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(name for name in model.model_fields if name != "source")


def _faults(error: ValidationError) -> Iterator[tuple[list[str | int], object, str]]:
    """Path below the source, value, and what is allowed, of each fault that pydantic found."""
    for fault in error.errors():
        at = [part for part in fault["loc"] if part not in ("str", "int", "bool", "date")]
        value = fault["input"]
        says = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, Refused):
            at, value, says = [*at, *cause.path.split(".")], cause.value, cause.allowed
        elif fault["type"] == "missing":
            value, says = MISSING, "is missing"
        elif fault["type"] == "extra_forbidden":
            says = f"no such key; there are {_keys(_model_at(at[:-1]))}"
        yield at, value, says


def _model_at(path: list[str | int]) -> type[BaseModel]:
    """The model that the keys below a path belong to."""
    models: dict[str, type[BaseModel]] = {
        "columns": ColumnMapping,
        "revision": Revision,
        "known_at": KnownAt,
        "dates": DateBounds,
        "version": Version,
    }
    return models.get(str(path[0]), SourceMapping) if path else SourceMapping
