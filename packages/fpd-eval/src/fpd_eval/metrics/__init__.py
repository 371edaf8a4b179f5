"""Metric functions: feature tensors or numpy arrays in, python floats out; float64 inside."""

from fpd_eval.metrics.frechet import frechet_distance
from fpd_eval.metrics.inception_score import inception_score
from fpd_eval.metrics.kernel import kernel_distance
from fpd_eval.metrics.manifold import ManifoldScores, density_coverage, manifold_scores, precision_recall

__all__ = [
    "ManifoldScores",
    "density_coverage",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "manifold_scores",
    "precision_recall",
]
