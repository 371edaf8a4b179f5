"""Graphics cards as their makers' data sheets give them, dense figures; prices are assumptions for you to replace."""

from dataclasses import dataclass

from fpd_core.config import nearest


@dataclass(frozen=True)
class Gpu:
    """One card.

    Attributes:
        bfloat16, tf32, float32, float64: peak FLOP/s of dense matrix products.
        memory: bytes.
        link: bytes/s that one card sends to the others of its node.
        price: dollars per hour, an assumption.
    """

    bfloat16: float
    tf32: float
    float32: float
    float64: float
    memory: int
    link: float
    price: float


def _card(peaks: tuple[float, float, float, float], memory: int, link: float, price: float) -> Gpu:
    bfloat16, tf32, float32, float64 = (one * 1e12 for one in peaks)
    return Gpu(bfloat16, tf32, float32, float64, memory * 10**9, link * 1e9, price)


GPUS = {
    "h200": _card((989, 495, 67, 67), 141, 450, 3.5),
    "h100": _card((989, 495, 67, 67), 80, 450, 2.5),
    "a100-80gb": _card((312, 156, 19.5, 19.5), 80, 300, 1.8),
    "a100-40gb": _card((312, 156, 19.5, 19.5), 40, 300, 1.3),
    "l40s": _card((362, 183, 91.6, 1.43), 48, 32, 1.0),
    "rtx4090": _card((165, 82.6, 82.6, 1.29), 24, 32, 0.5),
    "a10g": _card((70, 35, 31.5, 0.49), 24, 32, 1.0),
    "l4": _card((121, 60, 30.3, 0.47), 24, 32, 0.7),
}


def gpu(name: str) -> Gpu:
    """Raises ConfigError: no such card; names the known ones and the nearest."""
    if name.lower() not in GPUS:
        raise nearest(name, list(GPUS), "GPU")
    return GPUS[name.lower()]
