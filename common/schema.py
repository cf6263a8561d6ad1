"""JSON content as typed, frozen models: one validation and one error message for all files that are read back.

A model derives from `StrictModel`. A file written by hand, by another version or by an attacker either fits its model
or is refused in one sentence.
"""

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from skipwise.common.errors import UserError, shown


class StrictModel(BaseModel):
    """The base of models of files: frozen, no conversion ("1" and True are not 1), no unknown field, no NaN.

    Nested models, lists and dictionaries are checked too; `Any` is not.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def matching(pattern: str, expected: str) -> AfterValidator:
    """For `Annotated[str, ...]`: the whole text must match `pattern` (ASCII); `expected` says so in the message."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(expected)
        return text

    return AfterValidator(check)


Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A whole number from 0 that fits in int64."""
PositiveCount = Annotated[int, Field(ge=1, lt=2**63)]
"""A whole number from 1 that fits in int64."""
Sha256 = Annotated[str, matching("[0-9a-f]{64}", "64 hexadecimal digits")]


def validate(model: type[Model], content: object, file: Path, remedy: str) -> Model:
    """Returns `content`, what a JSON parser made of `file`, as an instance of `model`.

    Raises `UserError` of one sentence that names the file, the field, what was expected, what was found, and the
    `remedy` ("train again"). A model with a default for `schema_version` accepts that version alone, and another one is
    reported before anything else. A validator of a field raises `ValueError` with what was expected; a validator of
    the whole model, with what `file` does wrong ("has 3 rows in its parts and 4 in all").
    """
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object: {remedy}")
    version = model.model_fields.get("schema_version")
    if version is not None:
        found = content.get("schema_version")
        if type(found) is not int or found != version.default:
            raise UserError(f"{file} has schema_version {shown(found)}, this version reads {version.default}: {remedy}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(error, file, remedy)) from None


def _sentence(error: ValidationError, file: Path, remedy: str) -> str:
    """The first error in words."""
    first = error.errors(include_url=False)[0]
    kind, place, found = first["type"], first["loc"], shown(first["input"])
    if kind == "missing":
        return f"{file} has no field '{_path(place)}': {remedy}"
    if kind == "extra_forbidden":
        return f"{file} has an unknown field {shown(_path(place))}: {remedy}"
    if place and place[-1] == "[key]":
        return f"{file}: {_path(place[:-2])} has the key {found}: expected {_expected(first)}; {remedy}"
    if place:
        return f"{file}: {_path(place)} is {found}: expected {_expected(first)}; {remedy}"
    if kind == "value_error":
        return f"{file} {_expected(first)}: {remedy}"
    return f"{file} has a field whose name is not Unicode text: {remedy}"


def _expected(error: Any) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "model_type":
        return "an object"
    words: str = error["msg"].removeprefix("Input should be ").replace("String should", "text that should")
    return f"a number {words}" if words.startswith(("greater", "less")) else words


def _path(place: tuple[int | str, ...]) -> str:
    """`parts[0].rows`; a name that is no identifier is quoted and shortened."""
    steps = [f".{step}" if str(step).isidentifier() and len(str(step)) < 60 else f"[{shown(step)}]" for step in place]
    return "".join(steps).removeprefix(".")
