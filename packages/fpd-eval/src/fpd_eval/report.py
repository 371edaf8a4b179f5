"""The report folder: Markdown, self-contained HTML, CSV, JSON and pictures of one comparison."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fpd_eval import plots
from fpd_eval.results import Results
from fpd_eval.tables import cells, csv_table, markdown_table, markdown_text

CAPTIONS = {
    "distance": "Fréchet distance to the real images against the number of steps.",
    "precision_recall": "Precision and recall in classifier space against the number of steps.",
    "curves": "Training of the student; pale: logged values, solid: running mean.",
    "samples": "The first measured images of every system: same classes, same seeds, none selected.",
}


def write_report(results: Results, folder: Path) -> Path:
    """Write `report.html`, `report.md`, `results.csv`, `results.json` and the pictures; the path of the HTML file."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(results)
    plots.write_all(pictures, folder)
    (folder / "results.json").write_text(results.model_dump_json(indent=2) + "\n")
    (folder / "results.csv").write_text(csv_table(results))
    (folder / "report.md").write_text(markdown_report(results, pictures))
    page = folder / "report.html"
    page.write_text(html_report(results, pictures))
    return page


def draw(results: Results) -> dict[str, bytes]:
    """The report's pictures by name, PNG. Without a training run there are no curves."""
    pictures = {
        "distance": plots.against_steps(results, ("fd_classifier", "fd_efficientnet")),
        "precision_recall": plots.against_steps(results, ("precision", "recall")),
    }
    if results.curves:
        pictures["curves"] = plots.loss_curves(results.curves)
    return {**pictures, "samples": plots.sample_grid(strips(results), results.protocol.class_names)}


def strips(results: Results) -> list[tuple[str, str]]:
    """(caption, base64 PNG) of the real images and of every row."""
    rows = [(f"{row.name}, {row.steps} step{'s' if row.steps > 1 else ''}", row.samples) for row in results.rows]
    return [("real images", results.reference.samples), *rows]


def notes(results: Results) -> list[str]:
    """The sentences under the table."""
    real = results.reference.values
    return [
        results.protocol.sentence(),
        *(f"{name.capitalize()}: {settings}." for name, settings in _settings(results)),
        f"The {results.reference.num_images} real images themselves score IS {real['inception_score']:.2f} and class "
        f"accuracy {100 * real['class_accuracy']:.1f} %.",
        results.machine.sentence(),
    ]


def _settings(results: Results) -> list[tuple[str, str]]:
    """(system, its sampling options), once per system."""
    options = {
        row.name: ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row.settings.items())
        for row in results.rows
    }
    return [(name, text) for name, text in options.items() if text]


def markdown_report(results: Results, pictures: dict[str, bytes]) -> str:
    """Markdown with pictures as files beside it."""
    sections = ["# One-step student against its teacher", markdown_table(results)]
    sections += [markdown_text(note) for note in notes(results)]
    sections += [f"![{CAPTIONS[name]}]({name}.png)\n\n*{CAPTIONS[name]}*" for name in pictures]
    return "\n\n".join(sections) + "\n"


def html_report(results: Results, pictures: dict[str, bytes]) -> str:
    """One HTML file without links: pictures are embedded, every text is escaped."""
    environment = Environment(loader=PackageLoader("fpd_eval"), autoescape=True, undefined=StrictUndefined)
    content, palette = cells(results), plots.colours(results.rows)
    return environment.get_template("report.html.j2").render(
        header=content.header,
        rows=list(zip(results.rows, content.rows, content.best, strict=True)),
        palette=palette,
        notes=notes(results),
        figures=[
            (CAPTIONS[name], base64.b64encode(png).decode()) for name, png in pictures.items() if name != "samples"
        ],
        strips=strips(results),
        samples_caption=CAPTIONS["samples"],
        class_names=results.protocol.class_names,
    )
