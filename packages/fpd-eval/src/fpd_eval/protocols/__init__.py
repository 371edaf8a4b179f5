"""What decides a number besides the images, as data."""

from fpd_eval.protocols.presets import PROTOCOLS, protocol_called
from fpd_eval.protocols.protocol import MetricName, MetricProtocol

__all__ = ["PROTOCOLS", "MetricName", "MetricProtocol", "protocol_called"]
