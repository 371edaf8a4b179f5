"""The report folder: complete, escaped, self-contained, and the same when rendered again."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fpd_eval.bench.curves import read_curves
from fpd_eval.bench.rows import read_results
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.outcome import Outcome
from fpd_eval.geneval.prompts import make_prompts
from fpd_eval.geneval.scores import summarize
from fpd_eval.protocols import protocol_called
from fpd_eval.report import plots
from fpd_eval.report.cells import cells, footnotes, geneval_cells, published_cells
from fpd_eval.report.geneval_rows import Judged, geneval_row, require_one_detector, shown_prompts
from fpd_eval.report.judged_strip import judged_strip
from fpd_eval.report.page import grids, html_report, markdown_report, write_report
from fpd_eval.report.printed import printed
from fpd_eval.report.tables import csv_table, geneval_csv, markdown_table, terminal_table
from fpd_eval.report.verdict import merged, verdict_sentence

ROWS = [("teacher", 1), ("teacher", 2), ("teacher", 8), ("untrained", 1), ("student", 1)]
HOSTILE = "<script>alert(1)|*</script>"


class Page(HTMLParser):
    """Tags, sources and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href") and value[0] != "#"]

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


def test_the_page_goes_from_the_verdict_to_pictures_numbers_plots_and_settings(results):
    text = html_report(results, {"distance": b"png", "samples": b"png"}, {"distance": b"thin"})
    order = ["<h1>", '<p class="verdict">', 'id="pictures"', 'id="numbers"', 'id="plots"', 'id="settings"']
    places = [text.index(mark) for mark in order]
    assert places == sorted(places)
    assert text.index("Measured on") > text.index("<details><summary>Sampling options")
    # Real images, the teacher at its most steps and the student stand open; the rest is folded.
    opened, folded = text[text.index('id="pictures"') : text.index('id="numbers"')].split("<details>")
    assert re.findall(r'<th scope="row">([^<]*)</th>', opened)[:2] == ["real images", "teacher, 8 steps"]
    assert "teacher, 1 step" in folded
    assert text.count('<th scope="row"><span class="dot"') == len(results.rows)
    assert all(title in text for title in ('data-label="Steps"', "@media print", "<caption>"))
    assert f'srcset="data:image/png;base64,{base64.b64encode(b"thin").decode()}"' in text
    assert not re.search(r'<img[^>]*alt=""', text)


def test_measured_real_images_stand_first_and_took_no_steps(results):
    last = results.rows[-1].model_copy(update={"role": "real", "name": "real, second half"})
    changed = results.model_copy(update={"rows": (*results.rows[:-1], last), "reference": None})
    _, _, strips = grids(changed)[0]
    assert strips[0] == ("real, second half", last.samples)
    assert "teacher, 1 step" in dict(strips[1:])


def test_the_loss_curve_is_explained(results):
    assert "no measure of quality" in html_report(results, {"curves": b"png"})


def with_distances(results, *values):
    rows = [
        row.model_copy(update={"values": row.values | {"fd_classifier": value}})
        for row, value in zip(results.rows, values, strict=True)
    ]
    return results.model_copy(update={"rows": tuple(rows)})


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (
            9.0,
            "no higher than the teacher's at any step count (its lowest: 10.00 in 8 steps)",
        ),
        (
            25.0,
            "no higher than the teacher's in 1 step, above its lowest, 10.00 in 8 steps",
        ),
        (41.0, "above the teacher's at every step count (its lowest: 10.00 in 8 steps)"),
    ],
)
def test_the_verdict_says_where_the_student_stands(results, student, said):
    assert [(row.role, row.steps) for row in results.rows] == ROWS
    found = verdict_sentence(with_distances(results, 40.0, 20.0, 10.0, 90.0, student))
    assert f"has FD (classifier) {student:.2f}, {said}" in found
    assert found.endswith("with 1 network evaluation an image against 16; lower is better.")


def test_equal_rows_are_one_under_both_names(results):
    student = results.rows[-1]
    twin = student.model_copy(update={"name": "bundled", "ms_per_image": 99.0})
    both = results.model_copy(update={"rows": (*results.rows, twin)})
    assert [row.name for row in merged(both).rows][-1] == f"{student.name} = bundled"
    assert len(merged(both).rows) == len(results.rows)
    other = twin.model_copy(update={"values": twin.values | {"recall": 0.123}})
    assert len(merged(results.model_copy(update={"rows": (*results.rows, other)})).rows) == len(results.rows) + 1


def test_shares_have_a_binomial_error_and_distances_none(results):
    row = results.rows[0]
    assert plots._spread(results, row, "fd_classifier") is None
    share = row.values["precision"]
    assert plots._spread(results, row, "precision") == pytest.approx((share * (1 - share) / 10000) ** 0.5)


def test_markdown_has_every_value_and_marks_the_best(results):
    lines = markdown_table(cells(results)).splitlines()
    assert lines[0].startswith("| System | Steps | Network evaluations | FD (classifier) ↓ |")
    teacher, student = lines[4], lines[6]
    assert [cell.strip() for cell in teacher.split(" | ")][:4] == ["| teacher", "8", "16", "**5.06**"]
    assert "| 6.12 | 12.25 | 8.16 |" in student
    assert "95.4 %" in student
    assert r"&lt;script&gt;alert(1)\|\*&lt;/script&gt;" in student


def bright(results, *means, real=0.25):
    """The results with these mean pixels, and `real` for the real images."""
    rows = [
        row.model_copy(update={"values": row.values | {"mean_pixel": mean, "pixel_std": 0.5}})
        for row, mean in zip(results.rows, means, strict=True)
    ]
    values = results.reference.values | ({"mean_pixel": real, "pixel_std": 0.375} if real else {})
    return results.model_copy(
        update={"rows": tuple(rows), "reference": results.reference.model_copy(update={"values": values})}
    )


def test_the_best_brightness_is_the_one_closest_to_the_real_images(results):
    content = cells(bright(results, 0.1, 0.375, 0.2, 0.3125, 0.9))
    [place] = [number for number, title in enumerate(content.header) if title == "Mean pixel → 0.250"]
    assert [row[place] for row in content.rows] == ["0.100", "0.375", "0.200", "0.312", "0.900"]
    assert [marks[place] for marks in content.best] == [False, False, True, False, False]
    assert "Pixel sd → 0.375" in content.header
    assert "pixels have mean 0.250 and standard deviation 0.375" in markdown_report(bright(results, *[0.5] * 5), {})


def test_no_brightness_is_best_where_no_real_one_is_known(results):
    content = cells(bright(results, 0.1, 0.2, 0.3, 0.4, 0.5, real=None))
    place = content.header.index("Mean pixel → –")
    assert not any(marks[place] for marks in content.best)


def test_brightness_gets_a_picture_with_the_real_line(results, tmp_path):
    write_report(bright(results, 0.1, 0.2, 0.3, 0.4, 0.5), tmp_path / "one")
    other = plots.against_steps(bright(results, 0.1, 0.2, 0.3, 0.4, 0.5, real=0.3), ["mean_pixel", "pixel_std"])
    assert (tmp_path / "one" / "pixels.png").read_bytes() != other  # only the real line differs
    assert "(pixels.png)" in (tmp_path / "one" / "report.md").read_text()


def test_results_from_before_brightness_was_measured_are_still_read(results, tmp_path):
    write_report(results, tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["format_version"] == 3
    assert "mean_pixel" not in stored["rows"][0]["values"]
    found = read_results(tmp_path / "results.json")
    assert not any("pixel" in title for title in cells(found).header)
    assert not (tmp_path / "pixels.png").exists()


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
        json.dumps({"step": 2, "loss": 1.5, "note": "saved", "progress/pixels": -0.001, "signal": 0.2}),
    )
    curves = {curve.name: curve for curve in read_curves(tmp_path)}
    assert curves.keys() == {"loss", "entropy", "rms", "progress/pixels", "signal"}
    assert curves["progress/pixels"].panel == "Energy distance to the refinement"
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


def beside_published(results):
    """The comparison with its eight-step teacher standing for the papers' MaskGIT teacher, under our own protocol."""
    row = results.rows[2]
    values = printed(row.values, "MaskGit", steps=8, protocol=results.protocol, settings={})
    rows = [*results.rows[:2], row.model_copy(update={"published": values, "note": HOSTILE}), *results.rows[3:]]
    return results.model_copy(update={"rows": tuple(rows)})


def test_published_values_have_columns_of_their_own(results):
    content = cells(beside_published(results))
    place = content.header.index("IS ↑")
    assert content.header[place + 1] == "published"
    measured, beside = content.rows[2][place], content.rows[2][place + 1]
    assert measured == f"{8.0 + 8 / 40.5:.2f}"
    assert beside.startswith("222¹ ")  # FPD, table 2
    assert {texts[place + 1] for number, texts in enumerate(content.rows) if number != 2} == {"–"}
    assert not any(marks[place + 1] for marks in content.best)
    assert cells(results).header.count("published") == 0


def test_a_footnote_names_source_and_protocol_where_they_differ(results):
    shown = beside_published(results)
    assert footnotes(shown)[0] == (
        "¹ FPD, table 2 (ImageNet 256x256, MaskGIT teacher), not comparable as it stands: measured by protocol "
        "“dimo”, ours by “small”."
    )
    for text in (markdown_report(shown, {}), html_report(shown, {})):
        assert "not comparable as it stands" in text
    assert footnotes(results) == []


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, ""),
        ({"num_images": 1000}, "ours with num images 1000 instead of 50000"),
        ({"precision_recall_k": 5, "seed": 7}, "ours with precision recall k 5 instead of 3"),
    ],
)
def test_a_changed_preset_is_another_protocol(changes, difference):
    protocol = protocol_called("dimo").model_copy(update=changes)
    [value] = printed(["fid"], "FPD", steps=1, protocol=protocol, settings={})["fid"]
    assert (value.value, value.source, value.difference) == (6.9, "FPD, table 2", difference)


def test_another_guidance_scale_is_said():
    protocol = protocol_called("coco30k")
    values = printed(["fid"], "Meissonic", steps=16, protocol=protocol, settings={"guidance_scale": 3.0})["fid"]
    assert [value.difference for value in values] == ["guidance scale 9 there, 3 here"]


def test_systems_without_a_published_name_have_no_published_values(results):
    assert printed(["fid"], None, steps=1, protocol=results.protocol, settings={}) == {}
    assert published_cells(results) is None


def test_csv_and_json_keep_published_values_apart(results, tmp_path):
    shown = beside_published(results)
    records = list(csv.DictReader(io.StringIO(csv_table(shown))))
    assert float(records[2]["inception_score"]) == 8.0 + 8 / 40.5
    assert records[2]["published_inception_score"].startswith("222.0; ")
    assert records[2]["published_inception_score_protocol"].startswith("dimo; ")
    assert records[2]["published_inception_score_source"].startswith("FPD, table 2; ")
    assert records[0]["published_inception_score"] == ""
    write_report(shown, tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text())["rows"][2]
    assert stored["published"]["inception_score"][0]["value"] == 222
    assert stored["published"]["inception_score"][0]["protocol"] == "dimo"


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """results.jsonl of all prompts, two images each, the first correct; a picture for one shown prompt."""
    folder = tmp_path_factory.mktemp("geneval")
    picture = folder / "picture.png"
    Image.new("RGB", (40, 20), "red").save(picture)
    first = shown_prompts()[0]
    lines = [
        {
            "filename": str(picture if record["prompt"] == first else folder / f"{number}-{image}.png"),
            "tag": record["tag"],
            "prompt": record["prompt"],
            "correct": image == 0,
            "metadata": json.dumps(record),
        }
        for number, record in enumerate(make_prompts())
        for image in range(2)
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:20]))
    return folder


@pytest.fixture
def with_geneval(results, judged):
    rows = (
        geneval_row(Judged(name="SDXL", results=judged / "results.jsonl", steps=50, published_as="SDXL")),
        geneval_row(Judged(name=HOSTILE, results=judged / "part.jsonl", note=HOSTILE)),
    )
    return results.model_copy(update={"geneval": rows, "prompts": shown_prompts()})


def test_geneval_scores_stand_beside_published_ones(with_geneval):
    content = geneval_cells(with_geneval)
    assert content.rows[0][:4] == ["SDXL", "50", "0.50", "0.98¹"]  # FPD, table 1
    assert content.rows[0][-4:] == ["0.50", "0.55¹", "unknown", "unknown"]
    assert "Printed 0.55; the mean of the row's columns is 0.5567." in footnotes(with_geneval)[0]
    [full, _] = csv.DictReader(io.StringIO(geneval_csv(with_geneval)))
    assert (full["geneval_overall"], full["published_geneval_overall"]) == ("0.5", "0.55")


def judged_by(folder, name, **identity):
    """A folder of results with the record that our own runs leave beside them."""
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "results.jsonl").write_text((folder / "results.jsonl").read_text())
    scores = summarize([json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()])
    outcome = Outcome(name=name, scores=scores, samples=2, options=JudgeOptions(), images={}, detections=identity)
    (place / "scores.json").write_text(outcome.model_dump_json())
    return geneval_row(Judged(name=name, results=place / "results.jsonl"))


def test_every_row_names_its_judges_and_no_table_has_two_detectors(results, judged, with_geneval):
    ours = {"detector": "Mask2Former", "preprocessing": "mmdet-3.3", "weights_sha256": "a"}
    first = judged_by(judged, "first", **ours, colors="CLIP")
    table = geneval_cells(results.model_copy(update={"geneval": (first,), "prompts": shown_prompts()}))
    assert [column.title for column in table.columns[-2:]] == ["Detector", "Colour judge"]
    assert table.rows[0][-2:] == ["Mask2Former, mmdet-3.3", "CLIP"]
    require_one_detector([first, judged_by(judged, "same", **ours), *with_geneval.geneval])
    for changed, said in (
        (
            {"preprocessing": "mmdet-2.28"},
            "first was judged by Mask2Former, mmdet-3.3, other by Mask2Former, mmdet-2.28",
        ),
        ({"weights_sha256": "b"}, "other by the same with other weights: scores of two detectors cannot stand in one"),
    ):
        with pytest.raises(ValueError, match=said):
            require_one_detector([first, judged_by(judged, "other", **ours | changed)])


def test_partial_geneval_is_marked_and_wins_nothing(with_geneval):
    content = geneval_cells(with_geneval)
    assert content.rows[1][0] == f"{HOSTILE} (partial)"
    assert content.rows[1][-4:-2] == ["–", "–"]
    assert not any(content.best[1])
    assert all(content.best[0][place] for place in range(2, 16, 2))


def test_hostile_names_prompts_and_notes_are_shown_and_not_run(with_geneval, tmp_path):
    hostile = with_geneval.model_copy(
        update={"prompts": (HOSTILE, *with_geneval.prompts[1:]), "warnings": (f"{HOSTILE}: few images",)}
    )
    path = write_report(beside_published(hostile), tmp_path)
    page = Page(path.read_text())
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert {HOSTILE, f"{HOSTILE} (partial)", f"{HOSTILE}: {HOSTILE}", f"{HOSTILE}: few images"} <= set(page.texts)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "<script>" not in (tmp_path / "report.md").read_text()
    assert {"geneval.png", "prompts.png", "geneval.csv"} <= {file.name for file in tmp_path.iterdir()}


def test_geneval_alone_makes_a_report(with_geneval, tmp_path):
    alone = with_geneval.model_copy(update={"rows": (), "protocol": None, "reference": None, "curves": ()})
    page = Page(write_report(alone, tmp_path).read_text())
    assert "Image generators compared" in page.texts
    assert not (tmp_path / "results.csv").exists()
    assert read_results(tmp_path / "results.json") == alone


def test_the_sample_strip_shows_the_prompts_image_and_grey_for_lost_ones(with_geneval):
    strip = Image.open(io.BytesIO(base64.b64decode(with_geneval.geneval[0].samples)))
    width = strip.width // 6
    assert strip.height == width
    red, grey = strip.getpixel((width // 2, width // 2)), strip.getpixel((3 * width // 2, width // 2))
    assert red[0] > 240
    assert max(red[1:]) < 20
    assert max(abs(level - 211) for level in grey) < 4


@pytest.mark.parametrize(("correct", "frame"), [(True, (26, 127, 75)), (False, (179, 55, 47))])
def test_judged_pictures_show_boxes_and_verdict(tmp_path, correct, frame):
    """A 64 pixel image, shown with 184 pixels in a frame of 4: the box of 16..48 lies at 46..138."""
    Image.new("RGB", (64, 64), "black").save(tmp_path / "0.png")
    result = {"filename": str(tmp_path / "0.png"), "prompt": "a", "correct": correct}
    boxed = {"details": json.dumps({"cup": [[16, 16, 48, 48, 0.75]]}), "colors": json.dumps({"cup": ["red"]})}
    with_box, without = (
        np.array(Image.open(io.BytesIO(base64.b64decode(judged_strip([one], ["a", "b"])))))
        for one in (result | boxed, result)
    )
    assert with_box.shape == (192, 384, 3)
    assert tuple(with_box[1, 100]) == frame
    assert tuple(with_box[50, 100]) != (0, 0, 0)
    assert tuple(with_box[100, 50]) == tuple(with_box[142, 100]) == (255, 212, 0)
    assert not (without[8:170, 8:184]).any()
    # The label stands inside the box, below its upper edge.
    assert (with_box[51:66, 52:130] != 0).any()
    assert tuple(with_box[100, 300]) == (211, 211, 211)
