"""The base of every typed section: unknown keys are answered with the nearest valid one, values never change.

Numbers are `Number` or `Whole`, each with a least and a greatest value: a test walks every section and asks for them.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fpd_core.untrusted import shown

SMALLEST = 1e-20  # of a number's absolute values other than 0: beyond it, float32 arithmetic divides by zero
_PROBLEMS = 10  # lines of one error message


class ConfigError(ValueError):
    """A configuration is wrong; the message names the key, its place and what would be right."""


class CheckpointError(ValueError):
    """A weight file is absent, unreadable or does not fit the network; the message names the file and the remedy."""


def _usable(path: Path) -> Path:
    if "\0" in str(path) or len(str(path)) > _PATH_LENGTH:
        raise ValueError(f"Input should be a path: no NUL, at most {_PATH_LENGTH} characters")
    return path


_PATH_LENGTH = 4096  # what Linux opens

# The types of a section's fields. `Number` and `Whole` get their bounds from the field or from the types below.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Flag = StrictBool
Location = Annotated[Path, AfterValidator(_usable)]

Size = Annotated[Whole, Field(ge=1, le=2**16)]  # channels, tokens, pixels, heads, images of a batch
Depth = Annotated[Whole, Field(ge=1, le=256)]  # layers
Codes = Annotated[Whole, Field(ge=2, le=2**20)]  # entries of a codebook
Classes = Annotated[Whole, Field(ge=1, le=2**20)]
Steps = Annotated[Whole, Field(ge=1, le=10**9)]
Amount = Annotated[Whole, Field(ge=1, le=10**9)]  # of images, samples, repeats
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Count = Annotated[Whole, Field(ge=0, le=2**32)]  # of what a run has done, numbers of processes
Share = Annotated[Number, Field(ge=0, lt=1)]
Weight = Annotated[Number, Field(ge=0, le=1e3)]  # of a part of a loss, of a kind of sample
MaskShare = Annotated[Number, Field(ge=1e-4, le=1)]  # less would hide no token of any sequence
Guidance = Annotated[Number, Field(ge=0, le=100)]  # g of u + g (c - u): 0 is unconditional, 1 no guidance
Temperature = Annotated[Number, Field(ge=1e-3, le=1e3)]  # divides logits


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("Input should be one line without control characters")
    return text


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
Line = Annotated[str, Field(max_length=4000), AfterValidator(_one_line)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]  # in tables, pictures, folders


class Config(BaseModel):
    """Base of every configuration section."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with a word on the `name` or `kind` that tells sections apart."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for tag in (properties.get("name", {}), properties.get("kind", {})):
            if "const" in tag:
                tag.setdefault("description", "Which kind of section this is.")
        return schema

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in sorted(set(data) - set(cls.model_fields)):
                near = difflib.get_close_matches(shown(key), cls.model_fields, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {shown(key)!r}; {hint}")
        return data

    @model_validator(mode="after")
    def _not_vanishing(self) -> Self:
        for name, value in self:
            if isinstance(value, float) and 0 < abs(value) < SMALLEST:
                raise ValueError(f"{name} should be 0 or at least {SMALLEST:g} away from it, found {value}")
        return self


def explain(error: ValidationError, source: str) -> ConfigError:
    """One line per problem: place in the file, what is wrong, the value found."""
    problems, lines = error.errors(), []
    for problem in problems[:_PROBLEMS]:
        place = ".".join(shown(part) for part in problem["loc"]) or "top level"
        if problem["type"] == "union_tag_not_found":
            lines.append(f"{source}: {place}: this section needs a 'name' that says which kind it is")
            continue
        if problem["type"] == "union_tag_invalid":
            known = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
            lines.append(f"{source}: {place}: {nearest(problem['ctx']['tag'], known, 'name')}")
            continue
        value = problem["input"]
        found = f" (found {shown(repr(value))})" if isinstance(value, str | int | float | bool) else ""
        lines.append(f"{source}: {place}: {problem['msg'].removeprefix('Value error, ')}{found}")
    more = [f"{source}: {len(problems) - _PROBLEMS} more"] if len(problems) > _PROBLEMS else []
    return ConfigError("\n".join(lines + more))


def nearest(name: str, known: list[str], what: str) -> ConfigError:
    """The error for a name that no registry holds."""
    name = shown(name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"unknown {what} {name!r}; {hint}known: {', '.join(sorted(known))}")


def check_heads(width: int, num_heads: int, name: str = "num_heads") -> None:
    """Raises ValueError: attention of `width` channels does not split into `num_heads`."""
    if width % num_heads:
        raise ValueError(f"{name} {num_heads} does not divide the width {width}")


def check_codes(network: int, tokenizer: int) -> None:
    """Raises ValueError: a transformer and a tokenizer count different codes."""
    if network != tokenizer:
        raise ValueError(f"the network scores {network} codes, the tokenizer holds {tokenizer}")


def check_unique(values: tuple[int, ...]) -> tuple[int, ...]:
    """The values as they are. Raises ValueError: one is given twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"Input should name each of {sorted(set(values))} once")
    return values
