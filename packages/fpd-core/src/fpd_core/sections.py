"""Config fields that hold one of a registry's sections, packages' own among them; what a registry asks of entries."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args

from pydantic import Discriminator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from fpd_core.config import Config
from fpd_core.plugins import Registry
from fpd_core.untrusted import shown


def section_pair(base: type, made: type | None = None) -> Callable[[str, Any], str | None]:
    """The check of a registry whose entries are pairs (config section, what is made of it).

    Args:
        base: what the section must derive from, a `Config`.
        made: what the second must derive from; None: anything that can be called.
    """

    def wrong(name: str, found: Any) -> str | None:
        if not (isinstance(found, tuple) and len(found) == 2 and _derives(found[0], base)):
            return f"Input should be a pair of a subclass of {base.__name__} and what it configures"
        if not (callable(found[1]) if made is None else _derives(found[1], made)):
            return (
                f"the second of the pair should be {'callable' if made is None else f'a subclass of {made.__name__}'}"
            )
        return misnamed(name, found[0])

    return wrong


def misnamed(name: str, section: type[Config], key: str = "name") -> str | None:
    """Why a section cannot be told from others by its `key`, or None."""
    field = section.model_fields.get(key)
    named = field is not None and name in (field.default, *get_args(field.annotation))
    return None if named else f"its section should have {key}: {name!r}"


def one_of(base: type, *, subclass: bool = False, key: str | None = None) -> Callable[[str, Any], str | None]:
    """The check of a registry of instances of `base`, or of subclasses whose `key` defaults to their name."""

    def wrong(name: str, found: Any) -> str | None:
        if not (_derives(found, base) if subclass else isinstance(found, base)):
            return f"Input should be {'a subclass' if subclass else 'an instance'} of {base.__name__}"
        return misnamed(name, found, key) if key else None

    return wrong


def _derives(found: Any, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)


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
