"""What a table compares, as `configs/reproduce/*.json` declares it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from fpd_core.config import Config, ConfigError, Size, Steps, explain, nearest
from fpd_core.untrusted import read_json

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Pairs(Config):
    """What a stage learns from, drawn by the student of the stage before (`fpd-train shards pairs`)."""

    count: Size = Field(description="Pairs to draw.")
    steps: Steps = Field(description="Of the sampler that draws them.")
    guidance_scale: float = Field(ge=1, description="g in its last step.")


class Stage(Config):
    """One run of a row."""

    config: Path = Field(description="Of the run.")
    share: Positive = Field(1.0, le=1, description="Of the row's updates or seconds.")
    pairs: Pairs | None = Field(None, description="Drawn first; their time counts.")
    shown_as: str | None = Field(None, description="Name of the row that shows this stage's student, if one does.")


class Row(Config):
    """A method: its runs, one after the other, and how its last student stands in the table."""

    stages: tuple[Stage, ...] = Field(min_length=1, description="Runs; the last one's student is the row's.")
    overrides: dict[str, Any] = Field({}, description="Of every stage's config, by key.")
    rounds: Size = Field(1, description="A run's updates are dealt to so many rounds.")
    round_key: str | None = Field(None, description="Key that takes the updates of a round.")
    students: dict[str, str] = Field(
        {"student": ""}, description="Folders of the finished run that are measured, and what is added to the name."
    )
    auxiliary: Literal["none", "a network", "heads"] = Field("none", description="What else is trained.")

    @model_validator(mode="after")
    def _whole(self) -> "Row":
        if abs(sum(stage.share for stage in self.stages) - 1) > 1e-9:
            raise ValueError(f"the shares of the stages add up to {sum(s.share for s in self.stages):g}, not to 1")
        if (self.rounds > 1) != (self.round_key is not None):
            raise ValueError("rounds and round_key belong together")
        return self


class Ordering(Config):
    """What the paper finds: `paper` its numbers, which never stand in a column of ours."""

    better: str
    worse: str
    paper: str


class Published(Config):
    """A row of the paper's table."""

    method: str
    steps: int
    fid: float
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None


class Table(Config):
    """The whole file. All rows get what the first one needs for the asked number of updates."""

    title: str = Field(description="Headline of the report.")
    teacher: str = Field(description="Family name, for the rows of the teacher.")
    teacher_steps: tuple[Steps, ...] = Field(description="Step counts of the teacher's rows.")
    samplers: tuple[str, ...] = Field(description="Of the teacher's rows.")
    judged_by: tuple[str, ...] = Field(min_length=1, description="Metrics of the orderings, lower is better.")
    rate_factors: tuple[Positive, ...] = Field(
        description="The search multiplies each config's learning rate by these."
    )
    rows: dict[str, Row] = Field(min_length=1, description="By name; the first one sets the budget.")
    orderings: tuple[Ordering, ...] = Field((), description="What is judged.")
    published_title: str = Field(description="Headline of the published table.")
    published: tuple[Published, ...] = Field((), description="Rows of the published table.")
    notes: tuple[str, ...] = Field((), description="Sentences under the published table.")

    def only(self, names: Sequence[str]) -> "Table":
        """With these rows and the first, which sets the budget; all where none is named. Raises ConfigError: no row."""
        for name in names:
            if name not in self.rows:
                raise nearest(name, list(self.rows), "row")
        kept = {*names, next(iter(self.rows))} if names else set(self.rows)
        return self.model_copy(update={"rows": {name: row for name, row in self.rows.items() if name in kept}})


def read_table(path: Path) -> Table:
    """Raises ConfigError: the file is absent or damaged."""
    try:
        return Table.model_validate(read_json(path, error=ConfigError))
    except ValidationError as error:
        raise explain(error, str(path)) from None
