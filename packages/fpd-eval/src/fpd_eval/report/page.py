"""The report folder: Markdown, self-contained HTML, CSV, JSON and pictures of one comparison."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fpd_core.atomic import write_bytes
from fpd_eval.bench.rows import Results, Row
from fpd_eval.report import plots
from fpd_eval.report.battery_table import battery_cells, battery_notes
from fpd_eval.report.cells import Cells, footnotes, tables
from fpd_eval.report.sample_grid import sample_grid
from fpd_eval.report.seeds import seed_notes, verdict_cells
from fpd_eval.report.tables import csv_table, geneval_csv, markdown_table, markdown_text
from fpd_eval.report.verdict import merged, verdict_sentence

CAPTIONS = {
    "battery": "Mean distances to real images in units of what real images are apart, against the number of steps.",
    "distance": "Fréchet distance to the real images against the number of steps. Bars: standard deviation over "
    "training seeds; one set of images has none.",
    "precision_recall": "Precision and recall against the number of steps. Bars: standard deviation over training "
    "seeds, or where there is one the binomial standard error of precision, a share of the images.",
    "pixels": "Brightness and contrast of all images against the number of steps; black: the real images.",
    "geneval": "GenEval by task with standard errors over prompts, or standard deviations over training seeds where "
    "there are several. A white diamond is what a paper prints.",
    "curves": "Training of the student; pale: logged values, solid: running mean. The loss says how far the drafts of "
    "a step are from what the teacher makes of them (the sum of the drifts' root mean squares). Its target moves with "
    "the student, so it is no measure of quality: compare systems by the distances above.",
    "samples": "The first measured images of every system: same classes and, where it generates, same seeds.",
    "prompts": "The first prompt of every GenEval task, first image of every system: same prompts, none selected. "
    "Boxes are the judge's, with score, and colour where it names one; green frames passed, red ones did not. The "
    "notes name the seeds that are on record.",
}
PANELS = {
    "battery": ("fdr", "fdr_held_out", "swr"),
    "distance": ("fd_classifier", "fd_efficientnet", "fid", "sfid", "fdd"),
    "precision_recall": ("precision", "recall"),
    "pixels": ("mean_pixel", "pixel_std"),
}
GRIDS = ("samples", "prompts")
Strips = list[tuple[str, str]]


def write_report(results: Results, folder: Path) -> Path:
    """Write `report.html`, `report.md`, `results.json`, CSV files and the pictures; the path of the HTML file."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = merged(results)
    pictures = draw(shown)
    texts = {"results.json": results.model_dump_json(indent=2) + "\n", "report.md": markdown_report(shown, pictures)}
    texts |= {"results.csv": csv_table(results)} if results.rows else {}
    texts |= {"geneval.csv": geneval_csv(results)} if results.geneval else {}
    texts["report.html"] = html_report(shown, pictures, draw(shown, columns=1))
    files = {f"{name}.png": png for name, png in pictures.items()} | {k: text.encode() for k, text in texts.items()}
    for name, content in files.items():
        write_bytes(folder / name, content)
    return folder / "report.html"


def draw(results: Results, *, columns: int = 2) -> dict[str, bytes]:
    """The report's pictures by name, PNG: of every kind that there are results for.

    Args:
        columns: panels beside one another; 1 is for narrow pages, which show no grid as one picture.
    """
    pictures = {}
    for name, metrics in PANELS.items():
        shown = [metric for metric in metrics if results.rows and all(metric in row.values for row in results.rows)]
        if shown:
            pictures[name] = plots.against_steps(results, shown, columns=columns)
    if results.geneval:
        pictures["geneval"] = plots.geneval_bars(results)
    if results.curves:
        pictures["curves"] = plots.loss_curves(results.curves, columns=columns)
    for name, conditions, strips in grids(results) if columns > 1 else ():
        pictures[name] = sample_grid(strips, conditions)
    return pictures


def grids(results: Results) -> list[tuple[str, tuple[str, ...], Strips]]:
    """(picture's name, conditions, (caption, base64 strip) of every system): columns are equal conditions."""
    real = [("real images", results.reference.samples)] if results.reference else []
    found = [
        (
            "samples",
            results.conditions,
            real + [(_caption(row), row.samples) for row in sorted(results.rows, key=lambda row: not row.is_real)],
        ),
        ("prompts", results.prompts, [(row.name, row.samples) for row in results.geneval if row.samples]),
    ]
    return [(name, conditions, strips) for name, conditions, strips in found if strips]


def _caption(row: Row) -> str:
    return row.name if row.is_real else f"{row.name}, {row.steps} step{'s' if row.steps > 1 else ''}"


def chosen(results: Results) -> set[str]:
    """Captions of the strips to see first: real images, the teacher at its most steps, the students and all others."""
    teachers = [row for row in results.rows if row.role == "teacher"]
    last = max((row.steps for row in teachers), default=0)
    few = [row for row in results.rows if row.role not in ("teacher", "untrained") or row.steps == last]
    return {
        "real images",
        *(_caption(row) for row in few if row.role != "untrained"),
        *(r.name for r in results.geneval),
    }


def title(results: Results) -> str:
    roles = {row.role for row in results.rows}
    return "One-step student against its teacher" if {"student", "teacher"} <= roles else "Image generators compared"


def notes(results: Results) -> list[str]:
    """The sentences under the tables: published values first, then how everything was measured."""
    named = [(row.name, row.note) for row in results.rows] + [(row.name, row.note) for row in results.geneval]
    said = dict.fromkeys(f"{name}: {note}" for name, note in named if note)
    found = [*footnotes(results), *battery_notes(results), *seed_notes(results), *said, *results.warnings]
    if results.protocol is not None:
        found.append(results.protocol.sentence())
    if results.reference is not None:
        real = results.reference.values
        found.append(
            f"The {results.reference.num_images} real images themselves score IS {real['inception_score']:.2f} and "
            f"class accuracy {100 * real['class_accuracy']:.1f} %."
            + (
                f" Their pixels have mean {real['mean_pixel']:.3f} and standard deviation {real['pixel_std']:.3f}."
                if {"mean_pixel", "pixel_std"} <= real.keys()
                else ""
            )
        )
    return [*found, *_geneval_notes(results)]


def dump(results: Results) -> list[str]:
    """Every system's sampling options, and the machine: for whoever repeats it."""
    options = [f"{name[:1].upper()}{name[1:]}: {settings}." for name, settings in _settings(results)]
    return [*options, results.machine.sentence()]


def _settings(results: Results) -> list[tuple[str, str]]:
    """(system, its sampling options), once per system."""
    options = {
        row.name: ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row.settings.items())
        for row in results.rows
    }
    return [(name, text) for name, text in options.items() if text]


def _geneval_notes(results: Results) -> list[str]:
    return [
        f"GenEval of {row.name}: {row.images} images of {row.prompts} prompts"
        + ("" if row.suite == "geneval" else f" of the suite {row.suite!r}")
        + ("" if row.complete else ", which is incomplete: these are no GenEval scores")
        + (f"; {row.settings}." if row.settings else ".")
        for row in results.geneval
    ]


def markdown_report(results: Results, pictures: dict[str, bytes]) -> str:
    """Markdown with pictures as files beside it."""
    figures = {name: f"![{CAPTIONS[name]}]({name}.png)\n\n*{CAPTIONS[name]}*" for name in pictures}
    sections = [f"# {title(results)}", markdown_text(verdict_sentence(results))]
    sections += [figures.pop(name) for name in GRIDS if name in figures]
    sections += map(markdown_table, _all_tables(results))
    sections += [markdown_text(note) for note in notes(results)]
    sections += figures.values()
    sections += ["## Settings", *map(markdown_text, dump(results))]
    return "\n\n".join(sections) + "\n"


def html_report(results: Results, pictures: dict[str, bytes], narrow: dict[str, bytes] = {}) -> str:  # noqa: B006
    """One HTML file without links to others: pictures are embedded, every text is escaped.

    Args:
        narrow: the pictures for a page of a phone's width; where one is missing, the wide one is shown.
    """
    environment = Environment(loader=PackageLoader("fpd_eval.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html.j2").render(
        title=title(results),
        verdict=verdict_sentence(results),
        tables=[(content.columns, _rows(content)) for content in _all_tables(results)],
        palette=plots.colours(results),
        notes=notes(results),
        dump=dump(results),
        figures=[
            (name, CAPTIONS[name], _base64(png), _base64(narrow.get(name)))
            for name, png in pictures.items()
            if name not in GRIDS
        ],
        grids=[
            (name, CAPTIONS[name], conditions, *_in_two(strips, chosen(results)))
            for name, conditions, strips in grids(results)
        ],
    )


def _base64(png: bytes | None) -> str:
    return base64.b64encode(png).decode() if png else ""


def _in_two(strips: Strips, first: set[str]) -> tuple[Strips, Strips]:
    """Those to see first, and the others."""
    return [one for one in strips if one[0] in first], [one for one in strips if one[0] not in first]


def _all_tables(results: Results) -> list[Cells]:
    return tables(results) + [one for one in (battery_cells(results), verdict_cells(results)) if one]


def _rows(content: Cells) -> list[tuple[str, str, list[str], list[bool]]]:
    return list(zip(content.names, content.roles, content.rows, content.best, strict=True))
