"""The JSON schema of run configs. It is kept as a file, because the sections themselves import torch for seconds."""

import json
from importlib.metadata import entry_points
from importlib.resources import files

FILE = "schema.json"


def schema_text() -> str:
    """The kept schema, or, where an installed package brings teachers or methods of its own, the one with these."""
    if any(group.startswith("fpd.") for group in entry_points().groups):
        return current_schema()
    return (files("fpd_train") / FILE).read_text(encoding="utf-8")


def current_schema() -> str:
    """The schema of the sections as they are. `fpd-train schema --current` prints it, to renew the file."""
    from fpd_train.config import TrainConfig

    return json.dumps(TrainConfig.model_json_schema(), indent=2) + "\n"
