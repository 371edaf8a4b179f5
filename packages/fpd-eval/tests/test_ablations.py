"""The ablation runner with programs that only pretend: caching, resuming, failures, orderings."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[3] / "ci"
sys.path.insert(0, str(CI))

from ablation_report import judge  # noqa: E402
from ablation_runs import Ordering, read_declared, resolve  # noqa: E402
from warm_python import outcome  # noqa: E402

TRAIN = """#!{python}
import json, os, pathlib, sys
config = json.loads(pathlib.Path(sys.argv[3]).read_text())
pathlib.Path("{place}/pid.txt").write_text(str(os.getppid()))
print(config["seed"], file=open("{place}/trained.txt", "a"))
if config["method"]["objective"]["init_mask_ratio"] == 0.5:
    import time
    time.sleep(60)
if config["method"]["objective"]["estimator"] == "soft":
    sys.exit("the disk is on fire")
folder = pathlib.Path(config["output"])
(folder / "student").mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text(json.dumps(config))
"""
EVAL = """#!{python}
import json, pathlib, sys
system = json.loads(pathlib.Path(sys.argv[3]).read_text())
value = 50.0
if system["kind"] == "teacher" and pathlib.Path("{place}/slow").exists():
    import os, time
    pathlib.Path("{place}/pids.txt").write_text(f"{{os.getpid()}} {{os.getppid()}}")
    time.sleep(100)
if system["kind"] == "student":
    config = json.loads((pathlib.Path(system["folder"]).parent / "config.json").read_text())
    value = 40.0 + config["seed"] + 30 * (config["method"]["objective"]["draft_source"] == "random")
values = {{"fd_classifier": value, "fd_efficientnet": 5 * value, "recall": 0.5}}
print(json.dumps({{"rows": [{{"values": values}}], "reference": {{"values": {{"class_accuracy": 0.9}}}}}}))
"""


@pytest.fixture
def ablate(warm_python, tmp_path):
    """Runs `ci/ablations.py`: (exit code, output)."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("fpd-train", TRAIN), ("fpd-eval", EVAL)):
        path = programs / name
        path.write_text(text.format(python=sys.executable, place=tmp_path))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(*arguments):
        command = [CI / "ablations.py", "--out", tmp_path / "out", "--steps", "2", *arguments]
        environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
        return outcome(warm_python.start(command, env=environment, cwd=CI.parent))

    return run


def test_a_table_is_run_once_and_a_failure_ends_no_other(ablate, tmp_path):
    seeds = ("--seeds", "0", "--seeds", "1", "--seeds", "2")
    code, out = ablate("--table", "table3", *seeds, "--jobs", "2")
    assert code == 0, out
    assert "soft, seed 0: failed: exit code 1: the disk is on fire" in out
    record = json.loads((tmp_path / "out" / "fashion" / "table3.json").read_text())
    rows = {(row["row"], row["seed"]): row for row in record["rows"]}
    assert rows["straight-through", 2]["values"]["fd_classifier"] == 42
    assert rows["soft", 1]["values"] is None
    assert "on fire" in rows["soft", 1]["reason"]
    verdicts = {(one["better"], one["worse"]): one["verdict"] for one in record["orderings"]}
    assert verdicts["straight-through", "random drafts"] == "holds"
    assert verdicts["straight-through", "soft"] == "not measured"
    text = (tmp_path / "out" / "fashion" / "table3.md").read_text()
    assert "| straight-through | 3 | 41.00 ± 1.00 |" in text
    assert (tmp_path / "out" / "fashion" / "table3.png").read_bytes().startswith(b"\x89PNG")

    trained = (tmp_path / "trained.txt").read_text().splitlines()
    code, out = ablate("--table", "table3", *seeds)
    assert code == 0, out
    again = (tmp_path / "trained.txt").read_text().splitlines()[len(trained) :]
    assert len(again) == sum("on fire" in row["reason"] for row in record["rows"])  # only what failed is tried again


def test_a_stop_reaches_the_run_and_says_how_to_go_on(ablate, tmp_path):
    rows = json.loads((CI / "ablations.json").read_text())
    rows["tables"]["recipe"]["rows"] = {"slow": {"method.objective.init_mask_ratio": 0.5}}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    arguments = ("--table", "recipe", "--seeds", "0", "--rows", str(tmp_path / "rows.json"))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(ablate, *arguments)
        while not (tmp_path / "trained.txt").exists():
            assert not ended.done(), ended.result()
            time.sleep(0.1)
        os.kill(int((tmp_path / "pid.txt").read_text()), signal.SIGTERM)
        code, out = ended.result()
    assert (code, "interrupted; the same command continues" in out) == (130, True), out
    assert not list((tmp_path / "out").rglob("student"))  # a minute later there would have been one


def test_a_rows_own_values_stand_over_those_it_uses():
    row = {"use": ["masked, pixels"], "method.objective.guidance_scale": 2}
    found = read_declared().overrides(row, "fashion")
    assert found["method.objective.guidance_scale"] == 2
    assert found["method.objective.own_target"] == "mask"


@pytest.fixture
def students(tmp_path):
    """Finished students of two seeds, trained elsewhere."""
    folders = [tmp_path / f"elsewhere{seed}" / "student" for seed in range(2)]
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        config = {"seed": 3 * seed, "method": {"objective": {"draft_source": "student"}}}
        (folder.parent / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(bytes([seed]))
    return folders


def test_finished_students_make_a_row_without_training(ablate, students, tmp_path):
    ready = ("--ready", f"recipe={students[0]},{students[1]}")
    code, out = ablate("--table", "table1", *ready)
    assert code == 0, out
    assert not (tmp_path / "trained.txt").exists()
    record = json.loads((tmp_path / "out/fashion/table1.json").read_text())
    assert [row["values"]["fd_classifier"] for row in record["rows"]] == [40, 43]
    assert [row["ready"] for row in record["rows"]] == [str(folder) for folder in students]
    text = (tmp_path / "out/fashion/table1.md").read_text()
    assert "| recipe | 2 | 41.50 ± 2.12 |" in text
    assert f"measured here: recipe ({students[0]})" in text.replace("\\", "")
    (students[1] / "model.safetensors").write_bytes(b"retrained")
    code, out = ablate("--table", "table1", *ready, "--list")
    assert "recipe, seed 0: done" in out, out
    assert "recipe, seed 1: to do" in out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_teacher_is_measured_ends_its_process(ablate, students, tmp_path, sent):
    (tmp_path / "slow").touch()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(ablate, "--table", "table1", "--ready", f"recipe={students[0]}")
        while not (tmp_path / "pids.txt").exists() or not (tmp_path / "pids.txt").read_text():
            assert not ended.done(), ended.result()
            time.sleep(0.1)
        child, runner = map(int, (tmp_path / "pids.txt").read_text().split())
        os.kill(runner, sent)
        code, out = ended.result()
    assert (code, "interrupted; the same command continues" in out) == (130, True), out
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize(
    ("ready", "message"),
    [("recipe=nowhere", "nowhere is no finished student"), ("rezept=a,b", "one of recipe"), ("recipe", "got 'recipe'")],
)
def test_what_is_not_ready_is_said(ablate, ready, message):
    code, out = ablate("--table", "table1", "--ready", ready)
    assert code == 2
    assert message in " ".join(out.split())


def test_list_starts_nothing(tmp_path):
    command = [sys.executable, CI / "ablations.py", "--out", tmp_path / "out", "--table", "recipe", "--list"]
    done = subprocess.run([*command, "--seeds", "0"], cwd=CI.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "recipe, seed 0: to do" in done.stdout
    assert "runs to do, about" in done.stdout
    assert not (tmp_path / "trained.txt").exists()


def test_an_unknown_table_is_named(ablate):
    code, out = ablate("--table", "table9")
    assert code == 2
    assert "unknown table or world 'table9'" in out


def test_every_ordering_names_rows_or_teachers():
    declared = read_declared()
    for name, table in declared.tables.items():
        for one in table.orderings:
            for side in (one.better, one.worse):
                assert side in table.rows or side.startswith("teacher, "), (name, side)


def test_the_papers_tables_start_from_the_papers_settings():
    declared = read_declared()
    for table, fashion, scenes in (
        ("table3", "paper/fashion", "scenes-base"),
        ("table4", "paper/fashion", "scenes-base"),
        ("recipe", "fashion", "scenes"),
    ):
        assert declared.start("fashion", table).config == Path(f"configs/{fashion}.json")
        assert declared.start("scenes", table).config == Path(f"configs/{scenes}.json")


def test_a_run_is_found_by_its_settings_not_by_its_cadences(tmp_path, monkeypatch):
    monkeypatch.chdir(CI.parent)
    world = read_declared().worlds["fashion"]
    run = resolve("recipe", 0, {}, world, 2, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    stored = run.config.model_dump(mode="json") | {"save_every": 7}
    (tmp_path / "elsewhere" / "config.json").write_text(json.dumps(stored))
    assert resolve("recipe", 0, {}, world, 2, tmp_path).folder == tmp_path / "elsewhere"
    assert resolve("recipe", 0, {}, world, 3, tmp_path).folder != tmp_path / "elsewhere"
    assert resolve("recipe", 1, {}, world, 2, tmp_path).folder != tmp_path / "elsewhere"
    assert "unknown key 'optimiser'" in resolve("x", 0, {"optimiser.lr": 1}, world, 2, tmp_path).reason


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], "holds"),
        ([2.0, 2.1, 2.2], [1.0, 1.1, 1.2], "does not hold"),
        ([1.0, 2.0, 3.0], [1.1, 2.2, 3.1], "within noise"),
        ([1.0], [2.0, 3.0], "one seed: no verdict"),
        ([], [2.0, 3.0], "not measured"),
    ],
)
def test_an_ordering_holds_only_beyond_the_noise(better, worse, verdict):
    ordering = Ordering(better="a", worse="b", paper="", source="")
    rows = {"a": {"fd": better}, "b": {"fd": worse}}
    assert judge([ordering], rows, {}, "fd", better="lower")[0]["verdict"] == verdict


def test_what_is_to_be_as_real_is_judged_by_its_distance_from_it():
    rows = {"bright": {"mean_pixel": [0.28, 0.27, 0.29]}, "near": {"mean_pixel": [0.21, 0.23, 0.22]}}
    fixed = {"teacher": {"mean_pixel": 0.35}, "dark": {"mean_pixel": 0.215}}
    orderings = [
        Ordering(better=better, worse=worse, paper="", source="")
        for better, worse in (("near", "bright"), ("bright", "near"), ("bright", "teacher"), ("bright", "dark"))
    ]
    found = judge(orderings, rows, fixed, "mean_pixel", better="as_real", real=0.22)
    assert [one["verdict"] for one in found] == ["holds", "does not hold", "holds", "does not hold"]
    unknown = judge(orderings, rows, fixed, "mean_pixel", better="as_real")
    assert {one["verdict"] for one in unknown} == {"not measured"}


def test_a_teacher_is_one_fixed_number():
    ordering = Ordering(better="a", worse="teacher", paper="", source="")
    [one] = judge([ordering], {"a": {"fd": [1.0, 1.1, 1.2]}}, {"teacher": {"fd": 5.0}}, "fd", better="lower")
    assert one["verdict"] == "holds"
