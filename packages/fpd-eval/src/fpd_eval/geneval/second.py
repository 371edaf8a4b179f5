"""GenEval 2: prompts with questions, read from the user's own file, which its licence (CC BY-NC 4.0) keeps out of here.

The judge is any network that answers questions about a picture; its interface takes a picture and questions with the
wordings of the right answer and gives probabilities, so that files of answers found elsewhere serve as well.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, TypeVar

from PIL import Image
from pydantic import Field, ValidationError, model_validator

from fpd_core.config import Config, Line, explain
from fpd_core.untrusted import read_json_lines
from fpd_eval.metrics.soft_tifa import soft_tifa_am, soft_tifa_gm

FILE_BYTES = 2**26
Form = TypeVar("Form", bound=Config)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
YES = ("Yes", "yes", " yes", " Yes")

Probability = Annotated[float, Field(strict=True, ge=0, le=1)]
Question = tuple[str, tuple[str, ...]]
"""What is asked, and the wordings of the right answer, whose probabilities add up."""
Judge = Callable[[Image.Image, Sequence[Question]], Sequence[float]]
"""(RGB picture, questions) -> probability of the right answer to each."""


class SecondPrompt(Config):
    """One line of `geneval2_data.jsonl`."""

    prompt: Line
    atom_count: int
    vqa_list: tuple[tuple[Line, Line], ...] = Field(min_length=1, description="(question, right answer).")
    skills: tuple[Line, ...] = Field(description="Of every question: object, attribute, count, position or verb.")

    @model_validator(mode="after")
    def _paired(self) -> "SecondPrompt":
        if len(self.skills) != len(self.vqa_list):
            raise ValueError(f"{len(self.vqa_list)} questions have {len(self.skills)} skills")
        return self

    @property
    def questions(self) -> list[Question]:
        """As the official program asks them: one word, counts in words or figures, all else yes."""
        return [(f"{question} Answer in one word.", _wordings(question, right)) for question, right in self.vqa_list]


class SecondScores(Config):
    """`am` and `gm` in percent over all prompts; `skills` the mean probability of the answers about each."""

    prompts: int
    am: float
    gm: float
    skills: dict[str, float]


def read_second_prompts(path: Path) -> list[SecondPrompt]:
    """Raises ValueError: absent, damaged, or not GenEval 2's form."""
    found = _sections(path, SecondPrompt)
    if not found:
        raise ValueError(f"{path} holds no prompts")
    return found


def read_answers(path: Path, prompts: Sequence[SecondPrompt]) -> list[tuple[float, ...]]:
    """Probabilities found elsewhere: a line `{"answers": [...]}` for every prompt, in its order.

    Raises:
        ValueError: absent, damaged, or other numbers of lines or answers than questions.
    """
    found = [one.answers for one in _sections(path, _Answers)]
    if len(found) != len(prompts):
        raise ValueError(f"{path} answers {len(found)} prompts, there are {len(prompts)}")
    for answers, prompt in zip(found, prompts, strict=True):
        if len(answers) != len(prompt.vqa_list):
            raise ValueError(
                f"{path} has {len(answers)} answers to the {len(prompt.vqa_list)} questions of {prompt.prompt!r}"
            )
    return found


class _Answers(Config):
    answers: tuple[Probability, ...]


def summarize_second(prompts: Sequence[SecondPrompt], answers: Sequence[Sequence[float]]) -> SecondScores:
    """Scores of all prompts from the probability of every right answer."""
    by_skill: dict[str, list[float]] = {}
    for prompt, found in zip(prompts, answers, strict=True):
        for skill, probability in zip(prompt.skills, found, strict=True):
            by_skill.setdefault(skill, []).append(probability)
    return SecondScores(
        prompts=len(prompts),
        am=soft_tifa_am(answers),
        gm=soft_tifa_gm(answers),
        skills={skill: 100 * fmean(by_skill[skill]) for skill in sorted(by_skill)},
    )


def _wordings(question: str, right: str) -> tuple[str, ...]:
    if not question.startswith("How many"):
        return YES
    figure = str(NUMBERS.index(right) + 1) if right in NUMBERS else "other"
    return tuple(space + word for word in (right, right.capitalize(), figure) for space in ("", " "))


def _sections(path: Path, form: type[Form]) -> list[Form]:
    found = []
    for place, line in read_json_lines(path, limit=FILE_BYTES, name="FILE_BYTES"):
        try:
            found.append(form.model_validate(line))
        except ValidationError as error:
            raise explain(error, place) from None
    return found
