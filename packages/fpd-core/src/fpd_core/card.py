"""Model cards: whose weights a student holds and under which licence, and what evaluation measured of it.

Front matter is written and read by huggingface_hub's `ModelCardData`. The text is ours: `ModelCard.from_template` would
need a template file and jinja2 for what is one f-string here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpd_core.atomic import write_text
from fpd_core.checkpoints import CARD, CONFIG, CheckpointError
from fpd_core.teachers import TeacherConfig, teacher_config
from fpd_core.teachers.text_conditional import TextTeacherConfig
from fpd_core.untrusted import read_text, shown
from fpd_core.untrusted.limits import CARD_BYTES

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

OTHER, UNKNOWN = "other", "not known"
TEXT, CLASSES = "text-to-image", "unconditional-image-generation"


@dataclass(frozen=True)
class Part:
    """Weights that a student embeds or descends from.

    Attributes:
        what: transformer, tokenizer, ...
        source: repository or folder they come from.
        licence: in words.
        license_id: its name in the hub's list; `other` where it has none there.
        address: the repository's page; empty of a folder.
    """

    what: str
    source: str
    licence: str
    license_id: str
    address: str = ""


def parts_of(teacher: TeacherConfig) -> list[Part]:
    """Published files by their entries in `weight_files`, weight folders by their own cards."""
    files = [required.file for required in teacher.required_files()]
    if files:
        return [Part(file.role, file.repo_id, file.licence, file.license_id, file.url) for file in files]
    folders = dict.fromkeys(path.parent for path in teacher.weight_files())
    return [_of_folder(folder) for folder in folders]


def _of_folder(folder: Path) -> Part:
    front: Any = _parsed(read_card(folder), folder).data
    licence = front.license
    return Part("teacher", str(folder), licence or UNKNOWN, licence or OTHER)


def license_of(parts: Sequence[Part]) -> str:
    """The hub's name of the licence of a student of these parts: theirs where they agree, else `other`."""
    names = {part.license_id for part in parts}
    return names.pop() if len(names) == 1 else OTHER


def front_matter(teacher: TeacherConfig | None, *, tags: Sequence[str] = ()) -> "ModelCardData":
    """Front matter of a student.

    Args:
        teacher: None where it is not known; the licence is then `other`.
    """
    from huggingface_hub import ModelCardData

    parts = parts_of(teacher) if teacher else []
    found = license_of(parts)
    address = next((part.address for part in parts if part.address), None)
    repositories = list(dict.fromkeys(part.source for part in parts if part.address))
    return ModelCardData(
        license=found,
        license_name="of-its-teacher" if found == OTHER else None,
        license_link=address if found == OTHER else None,
        library_name="fpd",
        tags=["masked-diffusion", "one-step", *tags],
        # A bundled teacher lies in no repository; its family's name stands for it.
        base_model=repositories or (teacher.name if teacher else None),
        pipeline_tag=TEXT if isinstance(teacher, TextTeacherConfig) else CLASSES,
    )


def weights_table(teacher: TeacherConfig | None) -> str:
    """Markdown: whose weights are inside."""
    parts = parts_of(teacher) if teacher else []
    if not parts:
        return (
            "The teacher's weights come from no published file and no folder with a card: their licence is not known.\n"
        )
    rows = "\n".join(f"| {part.what} | {part.source} | {part.licence} |" for part in parts)
    return (
        "The student's network descends from its teacher's transformer; other parts are the teacher's, unchanged.\n\n"
        f"| part | from | licence |\n| --- | --- | --- |\n{rows}\n"
    )


def plain_card(teacher: Mapping[str, Any]) -> str:
    """The card of a student that came without one. `teacher` is the section of its teacher; empty if not known."""
    known = teacher_config(teacher) if teacher else None
    return f"---\n{front_matter(known).to_yaml()}\n---\n\n# A student\n\n{weights_table(known)}"


def read_card(folder: Path) -> str:
    """The card of a weight folder; empty where it has none. Raises CheckpointError: it is no text, or too long."""
    path = folder / CARD
    return read_text(path, limit=CARD_BYTES, name="CARD_BYTES", error=CheckpointError) if path.exists() else ""


def _parsed(text: str, folder: Path) -> "ModelCard":
    """Raises CheckpointError: its front matter is damaged."""
    from huggingface_hub import ModelCard

    try:
        # Without front matter of its own, huggingface_hub warns instead of taking it as empty.
        return ModelCard(text if text.lstrip().startswith("---") else f"---\n{{}}\n---\n{text}")
    except Exception as error:  # PyYAML's errors share no base with huggingface_hub's ValueError
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{shown(folder / CARD)}: its front matter is damaged: {shown(reason[0])}") from None


def write_results(folder: Path, title: str, results: Sequence["EvalResult"], table: str) -> None:
    """Put measured numbers into the card of a student's folder, for the hub (`model-index`) and for readers.

    An earlier result of the same metric on the same data is replaced, and so is an earlier section of this title.

    Args:
        title: of the section, as `fpd-eval metrics, protocol small`.
        table: Markdown.

    Raises:
        CheckpointError: no weight folder, or a card that cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{shown(folder)} is not a weight folder: {shown(folder / CONFIG)} does not exist")
    card = _parsed(read_card(folder), folder)
    front: Any = card.data
    kept = {_measured(result): result for result in [*(front.eval_results or []), *results]}
    front.eval_results = list(kept.values())
    front.model_name = front.model_name or folder.resolve().parent.name
    begin, end = f"<!-- {title} -->", f"<!-- end of {title} -->"
    section = f"{begin}\n## {title}\n\n{table.strip()}\n{end}"
    old = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    body = card.text.strip("\n")
    body = old.sub(lambda _: section, body) if old.search(body) else f"{body}\n\n{section}"
    write_text(folder / CARD, f"---\n{front.to_yaml()}\n---\n\n{body}\n")


def _measured(result: "EvalResult") -> tuple[str, ...]:
    """What a result is the number of."""
    return (result.dataset_type, str(result.dataset_config), result.metric_type, str(result.metric_args))
