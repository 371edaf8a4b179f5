"""The commands as users type them, on tiny random networks; mistakes end in one sentence and exit code 2."""

import json
import os
import subprocess
import sys
import time

import pytest

from fpd_eval.cli import expand_lists

COMPARE = ("compare", "--ckpt", "runs/tiny/student", "--num-images", "20", "--batch-size", "10")


def test_help_is_quick_and_imports_no_torch():
    program = (
        "import sys; from fpd_eval.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*(name for name in ('torch', 'matplotlib', 'pydantic') if name in sys.modules), file=sys.stderr)"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        assert done.stderr.strip() == ""
        assert "compare" in done.stdout
    assert min(times) < 0.4 * max(1, os.getloadavg()[0])


def test_compare_measures_and_writes_the_report(run, world):
    code, out, err = run(*COMPARE, "--steps", "1", "3", "--json")
    assert code == 0, err
    found = json.loads(out)
    systems = [(row["name"], row["role"], row["steps"], row["network_evaluations"]) for row in found["rows"]]
    assert systems == [
        ("teacher", "teacher", 1, 2),
        ("teacher", "teacher", 3, 6),
        ("untrained", "untrained", 1, 1),
        ("student", "student", 1, 1),
    ]
    assert found["protocol"]["num_images"] == 20
    assert found["rows"][0]["settings"]["guidance_scale"] == 1.5
    assert all(row["ms_per_image"] > 0 for row in found["rows"])
    report = world / "runs" / "tiny" / "report"
    assert (report / "curves.png").exists()
    code, out, _ = run("report", "--results", str(report / "results.json"), "--out", str(world / "again"))
    assert code == 0
    assert "untrained" in out
    assert max(len(line) for line in out.splitlines()[:-1]) <= 80
    assert (world / "again" / "report.html").read_bytes() == (report / "report.html").read_bytes()


def test_students_may_have_names_and_equal_weights_equal_numbers(run):
    arguments = ("compare", "--ckpt", "ours=runs/tiny/student", "--ckpt", "theirs=runs/tiny/student", "--steps=1")
    code, out, err = run(*arguments, "--num-images", "10", "--guidance-scale", "1", "--sampler", "halton", "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows] == ["teacher", "untrained", "ours", "theirs"]
    assert rows[0]["network_evaluations"] == 1
    assert rows[2]["values"] == rows[3]["values"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--ckpt", "runs/nothing"), "runs/nothing is not a weight folder"),
        ((*COMPARE, "--steps", "-1"), "steps"),
        ((*COMPARE, "--steps", "1", "65"), "steps must be between 1 and 64"),
        ((*COMPARE, "--steps", "2", "2"), "step count 2 is given twice"),
        ((*COMPARE, "--sampler", "greedy"), "'confidence' or 'halton'"),
        ((*COMPARE, "--guidance-scale", "-2"), "guidance_scale"),
        ((*COMPARE, "--teacher", "fashoin"), "did you mean 'fashion'"),
        ((*COMPARE, "--device", "abacus"), "unknown device 'abacus'"),
        ((*COMPARE, "--run", "assets"), "assets is not a training run"),
        ((*COMPARE[:-4], "--num-images", "25"), "multiple of the 10 classes"),
        ((*COMPARE[:-4], "--batch-size", "4"), "batch_size must be at least"),
        (("compare", "--ckpt", "teacher=runs/tiny/student"), "names another row"),
        (("report", "--results", "nothing.json", "--out", "x"), "nothing.json"),
    ],
)
def test_mistakes_end_in_one_sentence(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize("arguments", [("compare",), (*COMPARE, "--steps", "two"), (*COMPARE, "--steps"), ("measure",)])
def test_usage_errors_exit_with_2(run, arguments):
    code, _, err = run(*arguments)
    assert code == 2
    assert "Traceback" not in err


def test_ctrl_c_exits_with_130(run, monkeypatch):
    monkeypatch.setattr("fpd_eval.report.entrants.systems", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run(*COMPARE)
    assert code == 130
    assert err.startswith("interrupted")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--steps", "1", "2", "16", "--json"], ["--steps", "1", "--steps", "2", "--steps", "16", "--json"]),
        (["--steps", "1,2", "--seed", "3"], ["--steps", "1", "--steps", "2", "--seed", "3"]),
        (["--steps=4", "8"], ["--steps", "4", "--steps", "8"]),
        (["--steps", "-1"], ["--steps", "-1"]),
        (["--systems", "a,b.json", "c.json"], ["--systems", "a,b.json", "--systems", "c.json"]),
        (["--geneval", "a=x y.jsonl", "b=z"], ["--geneval", "a=x y.jsonl", "--geneval", "b=z"]),
        (["--steps", "--json"], ["--steps", "--json"]),
        (["--seed", "1", "2"], ["--seed", "1", "2"]),
    ],
)
def test_step_lists_are_expanded(given, expected):
    assert expand_lists(given) == expected
