"""The bundled text-to-image world: GenEval's objects as small emoji on a lattice, and captions in GenEval's grammar."""

from fpd_core.scenes.captions import held_out
from fpd_core.scenes.draw import Drawing
from fpd_core.scenes.layouts import Placed, Scene, draw_scene

__all__ = ["Drawing", "Placed", "Scene", "draw_scene", "held_out"]
