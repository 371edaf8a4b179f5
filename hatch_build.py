"""Fills the version in the pins of this repository's own packages. Each package that pins has this file: a source
archive is built from what it holds."""

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Pins(MetadataHookInterface):
    """`dependencies` are those of the hook's own table, with {version} filled in."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [one.format(version=metadata["version"]) for one in self.config["dependencies"]]
