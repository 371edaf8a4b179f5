"""How far the student's features are from the reference's. A distance is one file with a config section, one line in
`DISTANCES` and its name in the union."""

from typing import Annotated, Any

from pydantic import Field

from fpd_core.distances.drift import Drift, DriftConfig
from fpd_core.distances.frechet import Frechet, FrechetConfig
from fpd_core.distances.interface import Block, Distance, Scene, Settings
from fpd_core.distances.mmd import Mmd, MmdConfig
from fpd_core.distances.nystrom import Nystrom, NystromConfig

AnyDistanceConfig = Annotated[DriftConfig | MmdConfig | NystromConfig | FrechetConfig, Field(discriminator="name")]

DISTANCES: dict[type, Any] = {
    DriftConfig: Drift,
    MmdConfig: Mmd,
    NystromConfig: Nystrom,
    FrechetConfig: Frechet,
}

__all__ = ["DISTANCES", "AnyDistanceConfig", "Block", "Distance", "Scene", "Settings"]
