"""GenEval (Ghosh et al. 2023): prompts, judge and scores, without mmdetection."""

from fpd_eval.geneval.judge import JudgeOptions, Verdict, judge
from fpd_eval.geneval.prompts import make_prompts
from fpd_eval.geneval.scores import Scores, TaskScore, summarize

__all__ = ["JudgeOptions", "Scores", "TaskScore", "Verdict", "judge", "make_prompts", "summarize"]
