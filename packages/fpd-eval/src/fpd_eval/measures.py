"""Which numbers stand in a result row. A new one is a function and a line in `MEASURES`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from fpd_eval.features import Outputs
from fpd_eval.metrics import inception_score, manifold_scores
from fpd_eval.metrics.frechet import Gaussian, frechet_between, gaussian
from fpd_eval.protocol import EvaluationProtocol


@dataclass(frozen=True)
class Column:
    """How a number is shown.

    `short` is the title for terminals, with {} where the arrow stands; None leaves the column out there. `better` says
    which way is good.
    """

    title: str
    short: str | None
    decimals: int
    better: Literal["lower", "higher"]
    is_percent: bool = False

    def text(self, value: float) -> str:
        return f"{100 * value:.{self.decimals}f} %" if self.is_percent else f"{value:.{self.decimals}f}"


@dataclass(frozen=True)
class Sample:
    """A measured set of images: classes [N] and every extractor's outputs."""

    labels: Tensor
    outputs: Outputs

    @cached_property
    def gaussians(self) -> dict[str, Gaussian]:
        """Mean and covariance of every extractor's features; the real sample meets every system."""
        return {name: gaussian(output["features"]) for name, output in self.outputs.items()}


def fd_classifier(real: Sample, fake: Sample, protocol: EvaluationProtocol) -> dict[str, float]:
    return {"fd_classifier": _frechet("classifier", real, fake)}


def fd_efficientnet(real: Sample, fake: Sample, protocol: EvaluationProtocol) -> dict[str, float]:
    return {"fd_efficientnet": _frechet("efficientnet_lite0", real, fake)}


def inception(real: Sample, fake: Sample, protocol: EvaluationProtocol) -> dict[str, float]:
    mean, std = inception_score(fake.outputs["classifier"]["logits"], protocol.inception_splits)
    return {"inception_score": mean, "inception_score_std": std}


def manifold(real: Sample, fake: Sample, protocol: EvaluationProtocol) -> dict[str, float]:
    real_features, fake_features = (sample.outputs["classifier"]["features"] for sample in (real, fake))
    scores = manifold_scores(
        real_features,
        fake_features,
        precision_recall_k=protocol.precision_recall_k,
        density_coverage_k=protocol.density_coverage_k,
        inclusive=protocol.inclusive,
    )
    return asdict(scores)


def class_accuracy(real: Sample, fake: Sample, protocol: EvaluationProtocol) -> dict[str, float]:
    """Share of images whose strongest logit is the class that was asked for."""
    predicted = fake.outputs["classifier"]["logits"].argmax(dim=1)
    return {"class_accuracy": float((predicted == fake.labels).double().mean())}


def _frechet(extractor: str, real: Sample, fake: Sample) -> float:
    return frechet_between(real.gaussians[extractor], fake.gaussians[extractor])


MEASURES: tuple[Callable[[Sample, Sample, EvaluationProtocol], dict[str, float]], ...] = (
    fd_classifier,
    fd_efficientnet,
    inception,
    manifold,
    class_accuracy,
)

COLUMNS: dict[str, Column] = {
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
