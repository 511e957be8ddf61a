"""One YAML document, read strictly, and held against a pydantic model. Faults name the path in the file."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode

from schemas.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
Path = Sequence[str | int]

MISSING = object()
_SAYS = {
    "bool_type": "must be true or false",
    "date_from_datetime_parsing": "must be a day, such as 2026-01-31",
    "date_parsing": "must be a day, such as 2026-01-31",
    "date_type": "must be a day, such as 2026-01-31",
    "dict_type": "must be a mapping",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "missing": "is missing",
    "model_type": "must be a mapping",
    "string_type": "must be text; put it in quotes where YAML takes it for something else",
    "tuple_type": "must be a list",
}
"""pydantic's kinds of fault in our words; for the others its own message does."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice (the last one would win in silence)."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            text = str(key.value)
            if text in seen:
                raise ConstructorError(None, None, f"the key {text!r} stands twice", key.start_mark)
            seen.add(text)
        return super().construct_mapping(node, deep)


def _day(loader: _Loader, node: ScalarNode) -> object:
    """A day; one that no calendar has stays text, so that the model names it with its path."""
    try:
        return loader.construct_yaml_timestamp(node)
    except ValueError:
        return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _day)


def read_yaml(text: str, name: str) -> object:
    """The plain content of a YAML document. Raises ConfigError with `name`, line and column."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{name}: {place}{error.problem or error.context}. Mend the YAML there") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not readable as YAML: {error}") from None


def read_text(path: FilePath, kind: str) -> str:
    """The text of a file that `wattier init` writes; kind: what it is, such as a policy. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. `wattier init` writes a {kind} file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text. Save it as UTF-8") from None


def parse_document(text: str, name: str, model: type[Model]) -> Model:
    """A YAML document as `model`. Types are strict: no number passes for text, no float for a whole number.

    Raises: ConfigError with one line per fault: `name`, path in the file, value, what is allowed.
    """
    content = read_yaml(text, name)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{name}: must be a mapping with the keys {_names(model)}")
    try:
        return model.model_validate_json(json.dumps(_plain(content), default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(fault_line(name, *fault) for fault in _faults(error, model))) from None


def fault_line(name: str, path: Path, value: object, allowed: str) -> str:
    """The one form of a fault's message; `value` is what stands there, `MISSING` where nothing does.

    >>> fault_line("policy.yaml", ("versions", 1, "abc", "scope"), "al", "must be 'all' or 'category'")
    "policy.yaml: versions[1].abc.scope: 'al': must be 'all' or 'category'"
    """
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if value is MISSING:
        return f"{name}: {where}: {allowed}"
    shown = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return f"{name}: {where}: {shown if len(shown) <= 80 else shown[:77] + '...'}: {allowed}"


def one_of(name: str, names: Sequence[str]) -> str:
    """What is allowed where a name is not one of many; the most like it first.

    >>> one_of("tenur", ["abc", "tenure"]), one_of("x", ["abc", "tenure"])
    ("did you mean 'tenure'? It must be one of abc, tenure", 'must be one of abc, tenure')
    """
    like, allowed = get_close_matches(name, names, 1, cutoff=0.75), f"must be one of {', '.join(names)}"
    return f"did you mean {like[0]!r}? It {allowed}" if like else allowed


def _plain(value: object) -> object:
    """The same content with text for keys, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _faults(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Path, object, str]]:
    for fault in error.errors():
        path, kind, says = fault["loc"], fault["type"], fault["msg"].removeprefix("Value error, ")
        says = _SAYS.get(kind, says.replace("Input should be", "must be"))
        if kind in ("extra_forbidden", "model_type"):
            keys = _names(_model_at(model, path[:-1] if kind == "extra_forbidden" else path))
            says = f"no such key; there are {keys}" if kind == "extra_forbidden" else f"{says} with the keys {keys}"
        yield path, MISSING if kind == "missing" else fault["input"], says


def _names(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel]:
    """The model that a path below `model` leads to."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
