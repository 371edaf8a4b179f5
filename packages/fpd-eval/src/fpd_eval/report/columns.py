"""How numbers are shown. A metric without a line here stays out of the tables."""

from dataclasses import dataclass
from typing import Literal

from fpd_core.plugins import Registry
from fpd_core.sections import one_of

Better = Literal["lower", "higher", "as_real"]
AIMS: dict[Better, str] = {
    "lower": "lower is better",
    "higher": "higher is better",
    "as_real": "closest to the real images is best",
}


def shortfall(value: float, better: Better, real: float | None = None) -> float | None:
    """What is the smaller the better; None where only the real images' value could tell and there is none."""
    if better == "as_real":
        return None if real is None else abs(value - real)
    return value if better == "lower" else -value


@dataclass(frozen=True)
class Column:
    """`short` is the title for terminals, with {} where the arrow stands; None leaves the column out there. `better`
    says which way is good."""

    title: str
    short: str | None
    decimals: int
    better: Better
    is_percent: bool = False

    def text(self, value: float) -> str:
        return f"{100 * value:.{self.decimals}f} %" if self.is_percent else f"{value:.{self.decimals}f}"

    def difference(self, value: float) -> str:
        return ("+" if value >= 0 else "−") + self.text(abs(value))


_OWN: dict[str, Column | str] = {
    "fdr": Column("FDr", "FDr {}", 2, "lower"),
    "fdr_held_out": Column("FDr (held out)", "FDr {}\nheld", 2, "lower"),
    "swr": Column("SWr", "SWr {}", 2, "lower"),
    "cmmdr": Column("CMMDr", None, 2, "lower"),
    "fd_classifier": Column("FD (classifier)", "FD {}\nclass.", 2, "lower"),
    "fd_efficientnet": Column("FD (EfficientNet)", "FD {}\nEffNet", 2, "lower"),
    "fid": Column("FID", "FID {}", 2, "lower"),
    "sfid": Column("sFID", "sFID {}", 2, "lower"),
    "fdd": Column("FDD", "FDD {}", 1, "lower"),
    "inception_score": Column("IS", "IS {}", 2, "higher"),
    "precision": Column("Precision", "Prec. {}", 3, "higher"),
    "recall": Column("Recall", "Rec. {}", 3, "higher"),
    "density": Column("Density", None, 3, "higher"),
    "coverage": Column("Coverage", None, 3, "higher"),
    "kid": Column("KID", None, 5, "lower"),
    "class_accuracy": Column("Class accuracy", "Class\nacc. {}", 1, "higher", is_percent=True),
    "mean_pixel": Column("Mean pixel", None, 3, "as_real"),
    "pixel_std": Column("Pixel sd", None, 3, "as_real"),
}
COLUMNS = Registry("fpd.columns", "column", _OWN, one_of(Column))

# Of every encoder of a battery, by the metric's part of the name `fd/ENCODER`.
BATTERY_COLUMNS: dict[str, Column] = {
    "fdr": Column("FD ratio", "FDr {}", 2, "lower"),
    "fd": Column("FD", None, 2, "lower"),
    "sw": Column("SW", None, 4, "lower"),
    "mind": Column("MIND", "MIND {}", 3, "lower"),
    "cmmd": Column("CMMD", None, 4, "lower"),
    "kid": Column("KID", None, 5, "lower"),
}

GENEVAL_COLUMNS: dict[str, Column] = {
    "geneval_single": Column("Single", "Single {}", 2, "higher"),
    "geneval_two": Column("Two", "Two {}", 2, "higher"),
    "geneval_counting": Column("Counting", "Count {}", 2, "higher"),
    "geneval_colors": Column("Colors", "Color {}", 2, "higher"),
    "geneval_position": Column("Position", "Pos. {}", 2, "higher"),
    "geneval_color_attr": Column("Attrib.", "Attr. {}", 2, "higher"),
    "geneval_overall": Column("Overall", "All {}", 2, "higher"),
}
