"""Metric functions: feature tensors or numpy arrays in, python floats out; float64 inside."""

from fpd_eval.metrics.cmmd import cmmd
from fpd_eval.metrics.frechet import frechet_distance
from fpd_eval.metrics.inception_score import inception_score
from fpd_eval.metrics.kernel import kernel_distance
from fpd_eval.metrics.manifold import ManifoldScores, density_coverage, manifold_scores, precision_recall
from fpd_eval.metrics.mind import monge_distance
from fpd_eval.metrics.sliced_wasserstein import sliced_wasserstein

__all__ = [
    "ManifoldScores",
    "cmmd",
    "density_coverage",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "manifold_scores",
    "monge_distance",
    "precision_recall",
    "sliced_wasserstein",
]
