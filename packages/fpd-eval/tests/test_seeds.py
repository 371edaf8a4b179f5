"""Training seeds: one row of means with its spread, and verdicts that noise does not earn."""

import json
from statistics import NormalDist

import pytest
from scipy import stats

from fpd_eval.commands.arguments import row_pair
from fpd_eval.metrics.significance import against_fixed, holm, welch
from fpd_eval.report.cells import cells
from fpd_eval.report.page import markdown_report, write_report
from fpd_eval.report.seeds import over_seeds, seed_notes, verdict_cells, verdicts

SMALL = ("--num-images", "20", "--batch-size", "10")


def test_welch_worked_by_hand():
    """Means 2 and 5, variances 1 and 4, n = 3: t = -3 / sqrt(5/3), Welch-Satterthwaite 2.94 degrees of freedom."""
    first, second = [1.0, 2.0, 3.0], [3.0, 5.0, 7.0]
    t = -3 / (1 / 3 + 4 / 3) ** 0.5
    degrees = (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    assert degrees == pytest.approx(50 / 17)
    assert welch(first, second) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-12)


def test_many_seeds_approach_the_normal_test():
    first, second = [(i % 7) / 7 for i in range(7000)], [(i % 7) / 7 + 0.01 for i in range(7000)]
    z = 0.01 / (2 * (4 / 49) / 7000) ** 0.5
    assert welch(first, second) == pytest.approx(2 * (1 - NormalDist().cdf(z)), rel=0.01)


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0, 3.0]), ([], [1.0, 2.0]), ([2.0, 2.0], [3.0, 3.0])])
def test_nothing_is_said_of_one_seed_or_of_no_spread(first, second):
    assert welch(first, second) is None


def test_a_fixed_number_is_tested_with_one_sample():
    """Mean 2, sd 1, n = 3 against 0: t = 2 sqrt(3) with 2 degrees of freedom, whose p is 1 - t / sqrt(2 + t²)."""
    t = 2 * 3**0.5
    assert against_fixed([1.0, 2.0, 3.0], 0.0) == pytest.approx(1 - t / (2 + t * t) ** 0.5, rel=1e-12)
    assert against_fixed([1.0], 0.0) is None


def test_holm_worked_by_hand():
    """Of 4 questions: 0.01 x 4, then 0.02 x 3, 0.03 x 2 (not below the one before), 0.5 x 1; None asks nothing."""
    assert holm([0.03, 0.01, None, 0.5, 0.02]) == pytest.approx([0.06, 0.04, None, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def seeded(results, name, shifts):
    """The student's row with one value set per seed."""
    row = results.rows[4]
    return over_seeds(
        [
            row.model_copy(update={"name": name, "values": {key: value + shift for key, value in row.values.items()}})
            for shift in shifts
        ]
    )


@pytest.fixture
def compared(results):
    """Two recipes that differ by 1 with a spread of 0.01, and one that cannot be told from the first."""
    rows = [
        seeded(results, "a", (0, 0.01, 0.02)),
        seeded(results, "b", (1, 1.01, 1.02)),
        seeded(results, "c", (0, 0.02)),
    ]
    rows = (*results.rows, *rows)
    return results.model_copy(update={"rows": rows, "verdicts": verdicts(rows)})


def test_a_row_of_seeds_shows_mean_and_deviation(compared):
    assert compared.rows[5].values["fd_classifier"] == pytest.approx(6.125 + 0.01)
    assert compared.rows[5].sd("fd_classifier") == pytest.approx(0.01)
    content = cells(compared)
    assert content.rows[5][:3] == ["a (3 seeds)", "1", "1"]
    assert content.rows[5][3].endswith(" ± 0.01")
    assert content.rows[4][3] == "6.12"
    assert cells(compared, short=True).rows[5][3].endswith("\n±0.01")


def test_verdicts_tell_a_difference_from_noise(compared):
    found = {(v.first, v.second): v for v in compared.verdicts if v.metric == "fd_classifier"}
    assert found.keys() == {("a", "b"), ("a", "c"), ("b", "c")}
    assert found["a", "b"].text.startswith("real difference")
    assert found["a", "b"].difference == pytest.approx(-1)
    assert found["a", "c"].text == "within noise (p = 1)"
    [line] = [line for line in verdict_cells(compared).rows if line[:3] == ["b", "c", "FD (classifier)"]]
    assert line[3] == "+1.00"


def test_only_the_asked_pairs_are_judged_and_corrected(compared):
    """One question instead of three: Holm's factor 3 on the smallest p becomes 1; a pair's order is the asked one."""
    every = {(v.first, v.second): v for v in compared.verdicts if v.metric == "fd_classifier"}
    [found] = [v for v in verdicts(compared.rows, [("b", "a")]) if v.metric == "fd_classifier"]
    assert (found.first, found.second, found.difference) == ("b", "a", pytest.approx(1))
    assert found.p == pytest.approx(every["a", "b"].p / 3)
    assert verdicts(compared.rows, [("a", "teacher")]) == ()


def test_rows_of_one_seed_get_no_verdict(compared, results):
    assert seed_notes(compared)[-1] == f"One seed: no verdict on teacher, untrained, {results.rows[4].name}."
    assert "One seed: no verdict" in markdown_report(compared, {})
    assert seed_notes(results) == []
    assert verdict_cells(results) is None
    assert verdicts(results.rows) == ()


def test_other_settings_are_no_seeds(results):
    row = results.rows[4]
    with pytest.raises(ValueError, match="but its settings differ"):
        over_seeds([row, row.model_copy(update={"settings": {"temperature": 2.0}})])


def test_the_report_of_seeds_renders_again_equally(compared, tmp_path):
    from fpd_eval.bench.rows import read_results

    write_report(compared, tmp_path / "one")
    write_report(read_results(tmp_path / "one" / "results.json"), tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert "real difference" in (tmp_path / "one" / "report.html").read_text()
    header, *lines = (tmp_path / "one" / "results.csv").read_text().splitlines()
    assert {"seeds", "fd_classifier_sd"} <= set(header.split(","))
    assert len(lines) == 8


def test_the_command_joins_students_of_one_recipe(run, world):
    other = world / "runs" / "other"
    if not other.exists():
        other.symlink_to(world / "runs" / "tiny")
    code, out, err = run(
        *("compare", "--ckpt", "fpd=runs/tiny/student,runs/other/student", "--ckpt", "one=runs/tiny/student"),
        *("--steps", "1", *SMALL, "--json", "--out", str(world / "seeds")),
    )
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert [len(rows[name]["seeds"]) for name in ("teacher", "untrained", "fpd", "one")] == [0, 0, 2, 0]
    assert rows["fpd"]["values"] == pytest.approx(rows["one"]["values"])


def test_the_command_joins_system_files(run, world, tmp_path):
    for number in (0, 1):
        section = {"kind": "student", "name": "s", "folder": "runs/tiny/student"}
        (tmp_path / f"{number}.json").write_text(json.dumps(section))
    joined = f"fpd={tmp_path / '0.json'},{tmp_path / '1.json'}"
    code, out, err = run("compare", "--systems", joined, *SMALL, "--json", "--out", str(tmp_path / "report"))
    assert code == 0, err
    [row] = json.loads(out)["rows"]
    assert (row["name"], len(row["seeds"])) == ("fpd", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ckpt", "runs/a,runs/b"), "several training seeds need a name, as in: --ckpt fpd=runs/a,runs/b"),
        (("--ckpt", "x=runs/tiny/student,runs/tiny/student"), "student folder runs/tiny/student is given twice"),
        (("--geneval", "x=a.jsonl,a.jsonl"), "GenEval result a.jsonl is given twice"),
        (
            ("--ckpt", "runs/tiny/student", "--pair", "student"),
            "--pair is two rows, as in: --pair fpd,dimo; got 'student'",
        ),
        (
            ("--ckpt", "runs/tiny/student", "--pair", "studnt,teacher"),
            "unknown row of --pair 'studnt'; did you mean 'student'",
        ),
        (("--ckpt", "x=runs/tiny/student,runs/nothing"), "runs/nothing is not a weight folder"),
    ],
)
def test_mistakes_end_in_one_sentence(run, arguments, message):
    code, out, err = run("compare", *arguments, *SMALL)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_rows_whose_names_hold_commas_make_a_pair():
    assert row_pair("fpd,dimo") == ("fpd", "dimo")
    assert row_pair("sdtt, 4 steps,sdtt, 1 step") == ("sdtt, 4 steps", "sdtt, 1 step")
    assert row_pair("redi round 1,redi round 3, distilled") == ("redi round 1", "redi round 3, distilled")
    with pytest.raises(ValueError, match="--pair is two rows"):
        row_pair("sdtt, 4 steps")
