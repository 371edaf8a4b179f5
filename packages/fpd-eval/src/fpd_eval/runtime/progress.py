"""Progress of long passes, as fpd-core shows it."""

from fpd_core.track import Advance, Track, bars, silent

__all__ = ["Advance", "Track", "bars", "silent"]
