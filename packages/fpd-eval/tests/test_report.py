"""The report folder: complete, escaped, self-contained, and the same when rendered again."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from fpd_eval import plots
from fpd_eval.curves import read_curves
from fpd_eval.report import html_report, write_report
from fpd_eval.results import read_results
from fpd_eval.tables import cells, csv_table, markdown_table, terminal_table

HOSTILE = "<script>alert(1)|*</script>"


class Page(HTMLParser):
    """Tags, sources and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def write_metrics(folder, *lines):
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


@pytest.fixture
def page(results):
    return Page(html_report(results, {"distance": b"png", "samples": b"png"}))


def test_a_hostile_system_name_is_shown_and_not_run(page):
    assert "script" not in page.tags
    assert HOSTILE in page.texts


def test_every_picture_is_embedded(page, results):
    assert "link" not in page.tags
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 1 + 1 + len(results.rows)


def test_markdown_has_every_value_and_marks_the_best(results):
    lines = markdown_table(cells(results)).splitlines()
    assert lines[0].startswith("| System | Steps | Network evaluations | FD (classifier) ↓ |")
    teacher, student = lines[4], lines[6]
    assert [cell.strip() for cell in teacher.split(" | ")][:4] == ["| teacher", "8", "16", "**5.06**"]
    assert "| 6.12 | 12.25 | 8.16 |" in student
    assert "95.4 %" in student
    assert r"&lt;script&gt;alert(1)\|\*&lt;/script&gt;" in student


def test_the_terminal_shows_names_literally(results):
    console = Console(file=io.StringIO(), width=100)
    console.print(terminal_table(cells(results, short=True)))
    assert HOSTILE in console.file.getvalue()
    assert "40.50" in console.file.getvalue()


def test_csv_keeps_full_precision_and_the_protocol(results):
    records = list(csv.DictReader(io.StringIO(csv_table(results))))
    assert float(records[2]["fd_classifier"]) == 40.5 / 8
    assert records[4]["name"] == HOSTILE
    assert {record["protocol"] for record in records} == {"small"}
    assert {record["num_images"] for record in records} == {"10000"}


def test_unknown_metrics_of_a_newer_version_are_left_out_of_the_table(results):
    rows = [row.model_copy(update={"values": {**row.values, "unheard_of": 1.0}}) for row in results.rows]
    assert cells(results.model_copy(update={"rows": tuple(rows)})).header == cells(results).header


def test_the_folder_is_complete_and_renders_again_equally(results, tmp_path):
    write_report(results, tmp_path / "one")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    pictures = ["curves.png", "distance.png", "precision_recall.png", "samples.png"]
    assert names == sorted(["report.html", "report.md", "results.csv", "results.json", *pictures])
    for picture in pictures:
        Image.open(tmp_path / "one" / picture).verify()
        assert f"({picture})" in (tmp_path / "one" / "report.md").read_text()
    write_report(read_results(tmp_path / "one" / "results.json"), tmp_path / "two")
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_systems_have_one_colour_each(results):
    palette = plots.colours(results)
    assert len(set(palette.values())) == len(palette) == 3


def test_results_with_a_wrong_key_are_refused_by_name(results, tmp_path):
    record = json.loads(results.model_dump_json()) | {"rowz": []}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="unknown key 'rowz'; did you mean 'rows'"):
        read_results(path)


def test_curves_are_read_where_present(tmp_path):
    write_metrics(
        tmp_path,
        json.dumps({"step": 1, "loss": 2.5, "entropy": 3.0, "rms": 0.1, "rms/block1/h0.02": 9}),
        json.dumps({"step": 2, "loss": 1.5, "note": "saved"}),
    )
    curves = {curve.name: curve for curve in read_curves(tmp_path)}
    assert curves.keys() == {"loss", "entropy", "rms"}
    assert (curves["loss"].steps, curves["loss"].values) == ((1, 2), (2.5, 1.5))
    assert curves["entropy"].panel == "Token entropy"
    assert plots.loss_curves(list(curves.values())).startswith(b"\x89PNG")


def test_curves_tolerate_a_cut_line_and_non_finite_values(tmp_path):
    write_metrics(tmp_path, '{"step": 1, "loss": NaN}', '{"step": 2, "loss": 4.0}', '{"step": 3, "lo')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: 1 lines are not JSON"):
        (curve,) = read_curves(tmp_path)
    assert curve.values == (4.0,)


def test_a_run_without_known_quantities_has_no_curves(tmp_path):
    write_metrics(tmp_path, '{"step": 1, "lr": 0.1}')
    assert read_curves(tmp_path) == ()


def test_long_curves_are_thinned(tmp_path):
    write_metrics(tmp_path, *(json.dumps({"step": step, "loss": 1.0}) for step in range(1001)))
    (curve,) = read_curves(tmp_path)
    assert 300 < len(curve.steps) <= 400
    assert curve.steps[-1] > 995


def test_a_folder_without_metrics_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=re.escape("metrics.jsonl does not exist")):
        read_curves(tmp_path)
