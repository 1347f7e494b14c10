"""A user's YAML text -> a validated value, or one line that names the file, the key and the mistake."""

import difflib
from collections.abc import Hashable, Iterator
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from steelyard.errors import InvalidFile


class Strict(BaseModel):
    """A mapping in a user's file: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Value = TypeVar("Value", bound=BaseModel)


def parse(text: str, model: type[Value], file: str) -> Value:
    """Validate YAML text.

    Args:
        text: the YAML document.
        model: what it must be.
        file: its name, for messages.

    Raises:
        InvalidFile: with the first mistake; a misspelt key comes with the nearest right one.
    """
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise InvalidFile(file, _yaml_problem(error)) from None
    except RecursionError:
        raise InvalidFile(file, "is nested too deeply") from None
    if not isinstance(content, dict):
        raise InvalidFile(file, "must be a mapping of keys to values")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        details = error.errors()
        worst = next((e for e in details if e["type"] == "extra_forbidden"), details[0])
        raise InvalidFile(file, _problem(worst, model), _key(worst)) from None


def nearest(word: str, known: Iterator[str] | list[str]) -> str:
    """Return "; did you mean 'x'?" or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later key replace an equal earlier one in silence; a user's file must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return "is not YAML text: " + " ".join(str(error).split())


def _key(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "[key]")


def _problem(error: ErrorDetails, model: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        word = str(error["loc"][-1])
        known = sorted(_fields_at(model, error["loc"][:-1]))
        return "unknown key" + (nearest(word, known) or f"; known are: {', '.join(known)}")
    if error["type"] == "missing":
        return "is missing"
    problem = error["msg"].removeprefix("Value error, ")
    problem = problem[0].lower() + problem[1:]
    given = error["input"]
    return problem if isinstance(given, dict | list) else f"{problem} (it is {given!r})"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Return the keys that are allowed where `path` leads."""
    for part in path:
        annotation: Any = model.model_fields[str(part)].annotation if part in model.model_fields else model
        inner = [a for a in (annotation, *_flat(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner:
            model = inner[0]
    return set(model.model_fields)


def _flat(annotation: Any) -> Iterator[Any]:
    for argument in get_args(annotation):
        yield argument
        yield from _flat(argument)
