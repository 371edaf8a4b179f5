"""What a GenEval run found."""

from typing import Any

from fpd_core.config import Config
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.prompts import SHA256
from fpd_eval.geneval.scores import Scores


class Outcome(Config):
    """Scores of one system, and everything they depend on; the content of scores.json."""

    name: str
    scores: Scores
    samples: int
    options: JudgeOptions
    suite: str = "geneval"
    prompts_sha256: str = SHA256
    images: dict[str, Any]
    detections: dict[str, Any]
