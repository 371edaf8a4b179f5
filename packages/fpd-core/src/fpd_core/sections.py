"""Config fields that hold one of a registry's sections, packages' own among them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union

from pydantic import Discriminator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from fpd_core.config import Config
from fpd_core.plugins import Registry
from fpd_core.untrusted import shown


class Sections:
    """The type of a config field that holds one of a registry's sections: `Annotated[Base, Sections(...)]`.

    Validation, errors and JSON schema are those of the tagged union of all sections; it is made at first use, with a
    package's sections only where its name is asked for, or the schema.

    Args:
        registry: whose sections.
        section: an entry's section, by default the first of a pair.
        default: the `name` of a section that names none; None: there it must.
    """

    def __init__(
        self,
        registry: Registry[Any],
        section: Callable[[Any], type[Config]] = lambda entry: entry[0],
        default: str | None = None,
    ) -> None:
        self._registry, self._section, self._default = registry, section, default
        self._adapters: dict[tuple[type[Config], ...], TypeAdapter[Any]] = {}

    def _adapter(self, sections: Mapping[str, type[Config]]) -> TypeAdapter[Any]:
        chosen = tuple(sections.values())
        if chosen not in self._adapters:
            union: Any = Union[tuple(Annotated[one, Tag(name)] for name, one in sections.items())]  # noqa: UP007
            whole: Any = Annotated[union, Discriminator(self._name_of)]
            if self._default is None:  # the schema then says which key tells them apart
                whole = Annotated[Union[chosen], Field(discriminator="name")]  # noqa: UP007
            self._adapters[chosen] = TypeAdapter(whole)
        return self._adapters[chosen]

    def _name_of(self, value: Any) -> str | None:
        if isinstance(value, Mapping):
            name = value.get("name", self._default)
            return None if name is None else str(name)
        return getattr(value, "name", None) if isinstance(value, Config) else None

    def _validate(self, value: Any) -> Any:
        sections = {name: self._section(self._registry.brought(name)) for name in self._registry.own}
        name = self._name_of(value)
        if name is not None and name in self._registry:
            sections[name] = self._section(self._registry[name])
        elif name is not None:
            known = ", ".join(repr(one) for one in self._registry)
            raise PydanticKnownError(
                "union_tag_invalid", {"discriminator": "'name'", "tag": shown(name), "expected_tags": known}
            )
        return self._adapter(sections).validate_python(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        sections = {name: self._section(entry) for name, entry in self._registry.working().items()}
        return handler(self._adapter(sections).core_schema)
