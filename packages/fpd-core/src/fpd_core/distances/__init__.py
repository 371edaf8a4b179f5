"""How far the student's features are from the reference's. A distance is one file with a config section and one line
in `DISTANCES`, or a package with an entry point."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from fpd_core.distances.drift import Drift, DriftConfig
from fpd_core.distances.frechet import Frechet, FrechetConfig
from fpd_core.distances.interface import Block, Distance, DistanceConfig, Scene, Settings
from fpd_core.distances.mmd import Mmd, MmdConfig
from fpd_core.distances.nystrom import Nystrom, NystromConfig
from fpd_core.plugins import Registry
from fpd_core.sections import Sections, section_pair

_OWN: dict[str, tuple[type[DistanceConfig], Callable[..., Distance]] | str] = {
    "drift": (DriftConfig, Drift),
    "mmd": (MmdConfig, Mmd),
    "nystrom": (NystromConfig, Nystrom),
    "frechet": (FrechetConfig, Frechet),
}
DISTANCES = Registry("fpd.distances", "distance", _OWN, section_pair(DistanceConfig, Distance))

if TYPE_CHECKING:
    AnyDistanceConfig = DriftConfig | MmdConfig | NystromConfig | FrechetConfig
else:
    AnyDistanceConfig = Annotated[DistanceConfig, Sections(DISTANCES)]

__all__ = ["DISTANCES", "AnyDistanceConfig", "Block", "Distance", "Scene", "Settings"]
