"""The papers' numbers, read off their tables by hand."""

import pytest
from pydantic import ValidationError

from fpd_eval.report.published import PublishedTables, published, published_tables


@pytest.mark.parametrize(
    ("paper", "table", "metric", "system", "steps", "value"),
    [
        ("FPD", "1", "geneval_overall", "MaskGen-FPD", 1, 0.45),
        ("FPD", "1", "geneval_counting", "MaskGen-DiMO", 1, 0.35),
        ("FPD", "1", "geneval_overall", "MaskGen", 16, 0.48),
        ("FPD", "1", "geneval_overall", "InstaFlow", 1, 0.33),
        ("FPD", "1", "geneval_overall", "SDXL-LCM", 4, 0.51),
        ("FPD", "2", "fid", "FPD", 1, 6.90),
        ("FPD", "2", "inception_score", "MaskGit", 4, 192),
        ("FPD", "2", "recall", "FPD", 1, 0.35),
        ("FPD", "3a", "geneval_overall", "Soft Emb.", 1, 0.38),
        ("FPD", "4a", "geneval_overall", "Pixel space {0.02,0.05,0.2}", 1, 0.21),
        ("Di[M]O", "5", "inception_score", "DiMO", 1, 214.05),
        ("Di[M]O", "5", "precision", "MaskGit", 16, 0.831),
        ("Di[M]O", "6", "fid_5k", "encoded code of random noise", 1, 189.39),
        ("Di[M]O", "7", "hps_v2.0_average", "Di[M]O", 1, 28.11),
        ("Di[M]O", "7", "hps_v2.0_anime", "SDXL Base 1.0", 50, 28.88),
        ("Di[M]O", "8", "clip_score_vit_g", "Di[M]O", 1, 0.322),
        ("Di[M]O", "8", "fdd", "Meissonic", 8, 980.8),
        ("ReDi", "README", "fid", "ReDi^2", 1, 21.80),
        (
            "guided-diffusion",
            "evaluations/README",
            "sfid",
            "ADM-G + ADM-U (example run of the evaluator)",
            None,
            6.1404,
        ),
        ("1d-tokenizer", "README_MaskGen", "geneval_overall", "MaskGen-L (VQ)", None, 0.53),
    ],
)
def test_values_are_those_of_the_printed_tables(paper, table, metric, system, steps, value):
    found = [hit for hit in published(metric, system, steps=steps) if (hit.paper, hit.table) == (paper, table)]
    assert [hit.value for hit in found] == [pytest.approx(value, abs=1e-4)]


@pytest.mark.parametrize(
    ("paper", "table", "rows"),
    [
        *(("FPD", table, rows) for table, rows in (("1", 14), ("2", 13), ("3a", 4), ("3b", 2), ("4a", 3), ("4b", 4))),
        *(("Di[M]O", table, rows) for table, rows in (("5", 17), ("6", 5), ("7", 23), ("8", 5))),
    ],
)
def test_tables_are_complete(paper, table, rows):
    [found] = [entry for entry in published_tables().tables if (entry.paper, entry.table) == (paper, table)]
    assert len(found.rows) == rows


def test_rows_taken_from_other_evaluations_say_so():
    protocols = {
        (row.method, row.steps): (row.protocol, row.note)
        for table in published_tables().tables
        if (table.paper, table.table) == ("FPD", "2")
        for row in table.rows
    }
    assert protocols["SDTT", 4][0] == protocols["ReDi^3-distill", 1][0] == "redi"
    assert protocols["di4c", 4][0] == "unknown"
    assert protocols["FPD", 1] == (None, None)
    assert {hit.protocol for hit in published("recall", "SDTT")} == {"redi"}


def test_the_place_of_a_value_can_be_cited():
    assert [hit.source for hit in published("geneval_overall", "maskgen-fpd")] == ["FPD, table 1"]
    assert [hit.source for hit in published("geneval_overall", "minDALL-E")] == ["GenEval, README"]


def test_guidance_tells_rows_of_one_method_apart():
    found = {hit.row.guidance_scale: hit.value for hit in published("hps_v2.0_average", "Meissonic", steps=16)}
    assert found == {9: 27.90, 4: 27.71}


def test_what_nobody_printed_is_empty():
    assert published("fid", "a system of my own") == ()
    assert published("fid", "FPD", steps=2) == ()


def test_overalls_agree_with_their_columns():
    """A typing error would break the mean of the six tasks or four styles; printed values are rounded or cut."""
    checked = 0
    for table in published_tables().tables:
        for row in table.rows:
            for prefix, overall in (("geneval_", "geneval_overall"), ("hps_v2.0_", "hps_v2.0_average")):
                parts = [value for name, value in row.values.items() if name.startswith(prefix) and name != overall]
                if parts:
                    scale = 1 if prefix == "geneval_" else 4
                    assert row.values[overall] == pytest.approx(sum(parts) / len(parts), abs=0.01 * scale)
                    checked += 1
    assert checked == 14 + 6 + 23


def test_values_are_plausible():
    for table in published_tables().tables:
        for row in table.rows:
            assert row.values
            for name, value in row.values.items():
                if name.startswith("geneval_") or name in ("precision", "recall", "clip_score_vit_g", "coverage"):
                    assert 0 <= value <= 1, (table.table, row.method, name)


def test_a_table_of_an_unknown_paper_is_refused():
    table = {"paper": "X", "table": "1", "protocol": "geneval", "title": "t", "rows": []}
    with pytest.raises(ValidationError, match="no title for the papers"):
        PublishedTables.model_validate({"papers": {}, "tables": [table]})
