"""The base of every typed section: unknown keys are answered with the nearest valid one, values never change."""

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class ConfigError(ValueError):
    """A configuration is wrong; the message names the key, its place and what would be right."""


class Config(BaseModel):
    """Base of every configuration section."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in sorted(set(data) - set(cls.model_fields)):
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {key!r}; {hint}")
        return data


def explain(error: ValidationError, source: str) -> ConfigError:
    """One line per problem: place in the file, what is wrong, the value found."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "top level"
        if problem["type"] == "union_tag_not_found":
            lines.append(f"{source}: {place}: this section needs a 'name' that says which kind it is")
            continue
        if problem["type"] == "union_tag_invalid":
            known = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
            lines.append(f"{source}: {place}: {nearest(problem['ctx']['tag'], known, 'name')}")
            continue
        value = problem["input"]
        found = f" (found {value!r})" if isinstance(value, str | int | float | bool) else ""
        lines.append(f"{source}: {place}: {problem['msg'].removeprefix('Value error, ')}{found}")
    return ConfigError("\n".join(lines))


def nearest(name: str, known: list[str], what: str) -> ConfigError:
    """The error for a name that no registry holds."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"unknown {what} {name!r}; {hint}known: {', '.join(sorted(known))}")
