"""`fpd-train reproduce` with programs that only pretend: search, budgets, chains, resuming, failures, verdicts."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fpd_core.config import ConfigError
from fpd_train.config import load_config
from fpd_train.reproduce.chain import Chain, Taken
from fpd_train.reproduce.declared import read_table
from fpd_train.reproduce.measuring import Measuring
from fpd_train.reproduce.processes import Failed, Output, Processes
from fpd_train.reproduce.report import judge, markdown
from fpd_train.reproduce.reproduction import Plan, fastest, reproduce
from fpd_train.reproduce.side_by_side import side_by_side

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "configs/reproduce/table2.json"
# A method's seconds per update, and its distance with the config's own learning rate.
SPEED = {"fpd": 1.0, "dimo": 2.0, "sdtt": 0.5, "redi": 0.5}
FD = {"fpd": 40.0, "dimo": 80.0, "sdtt": 60.0, "redi": 70.0}
TRAIN = """#!{python}
import json, pathlib, sys
place = pathlib.Path("{place}")
asked = sys.argv[1:]
print(" ".join(asked), file=open(place / "asked.txt", "a"))
if asked[0] == "shards":
    out = pathlib.Path(asked[asked.index("--out") + 1])
    out.mkdir(parents=True)
    (out / "sizes.json").write_text("{{}}")
    print(json.dumps({{"pairs": 1, "seconds": 2.5}}))
    sys.exit()
config = json.loads(pathlib.Path(asked[-1]).read_text())
if (place / "broken").exists() and (place / "broken").read_text() == config["method"]["name"]:
    sys.exit("the disk is on fire")
folder = pathlib.Path(config["output"])
for name in ("student", "student_4_steps"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "model.safetensors").write_text("weights")
    (folder / name / "config.json").write_text(json.dumps(config))
speed = {speed}[config["method"]["name"]]
lines = [{{"step": n, "images_seen": 32 * n, "images_per_second": 32 / speed}} for n in range(1, config["steps"] + 1)]
lines[0]["images_per_second"] /= 50  # the first step warms up
(folder / "metrics.jsonl").write_text("\\n".join(json.dumps(line) for line in lines))
"""
EVAL = """#!{python}
import json, math, pathlib, sys
asked = sys.argv[1:]
print(" ".join(asked[:5]), file=open("{place}/measured.txt", "a"))
wanted = asked[asked.index("--systems") + 1 :]
rows = []
for system in wanted:
    name, files = system.split("=")
    seeds = []
    for file in files.split(","):
        section = json.loads(pathlib.Path(file).read_text())
        value, steps = 30.0 + 10 / (section.get("steps") or 1), section.get("steps") or 1
        if section["kind"] == "student":
            config = json.loads((pathlib.Path(section["folder"]) / "config.json").read_text())
            method = config["method"]["name"]
            base = json.loads(pathlib.Path("{place}/rates.json").read_text())[method]
            off = abs(math.log(config["optimizer"]["lr"] / base / {{"dimo": 3, "redi": 0.3}}.get(method, 1)))
            value = {fd}[method] + 20 * off + config["seed"] % 1000 - 5 * (steps > 1)
        seeds.append({{metric: value * k for k, metric in enumerate({metrics}, 1)}})
    mean = {{m: sum(s[m] for s in seeds) / len(seeds) for m in seeds[0]}}
    rows.append({{"name": name, "steps": steps, "values": mean, "seeds": seeds if len(seeds) > 1 else []}})
pairs = [asked[i + 1].split(",") for i, word in enumerate(asked) if word == "--pair"]
by = {{row["name"]: row for row in rows}}
known = [(a, b) for a in by for b in by if any(",".join(pair) == a + "," + b for pair in pairs)]
verdicts = [
    {{"metric": m, "first": a["name"], "second": b["name"], "difference": a["values"][m] - b["values"][m], "p": 0.01}}
    for a, b in ((by[a], by[b]) for a, b in known)
    for m in ("fd_classifier", "fd_efficientnet")
]
print(json.dumps({{"rows": rows, "verdicts": verdicts, "reference": {{"values": {{"class_accuracy": 0.9}}}}}}))
"""
METRICS = ["fd_classifier", "fd_efficientnet", "inception_score", "precision", "recall", "class_accuracy"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    filled = {"python": sys.executable, "place": tmp_path, "speed": SPEED, "fd": FD, "metrics": METRICS}
    for name, text in (("fpd-train", TRAIN), ("fpd-eval", EVAL)):
        path = programs / name
        path.write_text(text.format(**filled))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    configs = {"fpd": "fashion.json", **{name: f"rivals/fashion-{name}.json" for name in ("dimo", "sdtt")}}
    configs["redi"] = "rivals/fashion-redi0.json"
    rates = {name: load_config(ROOT / "configs" / path).optimizer.lr for name, path in configs.items()}
    (tmp_path / "rates.json").write_text(json.dumps(rates))
    return tmp_path


def run(place, rows, until="plot", seeds=(0, 1), updates=40):
    table = read_table(TABLE).only(rows)
    plan = Plan(table, updates, 8, seeds, 1000, 300, (1, 4), place / "out")
    processes, console = Processes(), Console(file=(place / "said.txt").open("a"))
    reproduce(
        plan,
        lambda chains: side_by_side(chains, lambda chain: chain.perform(processes), 2, processes, console),
        processes,
        console,
        until,
    )
    return place / "out"


def asked(place):
    return (place / "asked.txt").read_text().splitlines()


def steps_of(out, method):
    found = [json.loads(path.read_text()) for path in (out / "runs").glob("*.json") if "pairs" not in path.name]
    return sorted(one["steps"] for one in found if one["method"]["name"] == method and one["seed"] == 0)


def test_the_search_finds_each_rows_own_rate(place):
    out = run(place, ["dimo"], until="search")
    found = json.loads((out / "search.json").read_text())
    assert {name: one["factor"] for name, one in found.items()} == {"fpd": 1, "dimo": 3}
    # By hand: 80 + 20 |log(1/3)| at the config's own rate.
    assert found["dimo"]["values"]["1"]["fd_classifier"] == pytest.approx(80 + 20 * 1.0986122886681098)


def test_budgets_are_equal_in_time_and_in_updates(place):
    out = run(place, ["dimo", "sdtt"], until="training")
    # FPD: 40 updates of 1 s are 40 s. Di[M]O's cost 2 s, SDTT's 0.5 s in rounds of a quarter.
    assert steps_of(out, "fpd") == [40]
    assert steps_of(out, "dimo") == [20, 40]
    assert steps_of(out, "sdtt") == [40, 80]
    rounds = [json.loads(path.read_text()) for path in (out / "runs").glob("*.json")]
    assert {(one["steps"], one["method"]["updates"]) for one in rounds if one["method"]["name"] == "sdtt"} == {
        (8, 2),
        (40, 10),
        (80, 20),
    }


def test_the_fastest_run_of_all_says_what_an_update_costs(place):
    """The search ran beside something else; the runs of equal updates did not."""
    run(place, ["dimo"], until="search")
    for path in (place / "out" / "runs").glob("*/taken.json"):
        taken = json.loads(path.read_text())
        if json.loads((path.parent / "student" / "config.json").read_text())["method"]["name"] == "dimo":
            path.write_text(json.dumps(taken | {"seconds_per_update": 5 * taken["seconds_per_update"]}))
    assert steps_of(run(place, ["dimo"], until="training"), "dimo") == [20, 40]


def test_a_slow_run_of_the_search_sets_no_budget():
    def chain(*seconds):
        taken = [Taken(updates=1, seconds_per_update=s, pairs_seconds=10 - s, peak_memory=1) for s in seconds]
        return Chain("x", read_table(TABLE).rows["dimo"], 0, 1.0, Path(), updates=1, taken=taken)

    least = fastest([chain(3.0, 1.0), chain(2.0, 4.0)])
    assert [(one.seconds_per_update, one.pairs_seconds) for one in least] == [(2.0, 7.0), (1.0, 6.0)]


def test_pairs_are_drawn_by_the_stage_before_and_paid(place):
    known = [Taken(updates=1, seconds_per_update=0.5, pairs_seconds=p, peak_memory=1) for p in (0, 4, 4, 2)]
    row = read_table(TABLE).rows["redi"]
    chain = Chain("redi", row, 0, 1.0, place / "runs", seconds=40.0, known=known)
    chain.perform(Processes())
    # (40 - 10 s of pairs) / 4 stages / 0.5 s.
    assert [taken.updates for taken in chain.taken] == [15, 15, 15, 15]
    # What the command says of its drawing, not how long the command ran.
    assert [taken.pairs_seconds for taken in chain.taken] == [0, 2.5, 2.5, 2.5]
    drawn = [line.split() for line in asked(place) if line.startswith("shards")]
    assert [line[line.index("--student") + 1] for line in drawn] == [str(f / "student") for f in chain.folders[:3]]
    assert [line[line.index("--guidance-scale") + 1] for line in drawn] == ["2.0", "2.0", "9.0"]
    for folder, before, line in zip(chain.folders[1:], chain.folders[:3], drawn, strict=True):
        config = json.loads(folder.with_suffix(".json").read_text())
        assert config["method"]["start"] == str(before / "student")
        assert config["data"]["folder"] == line[line.index("--out") + 1]
    assert chain.students() == {
        **{f"redi round {n}": chain.folders[n] / "student" for n in range(3)},
        "redi round 3, distilled": chain.folders[3] / "student",
    }


def test_a_budget_below_its_pairs_is_told(place):
    known = [Taken(updates=1, seconds_per_update=0.5, pairs_seconds=15, peak_memory=1)] * 4
    with pytest.raises(Failed, match="its pairs alone take 60 of 40 s"):
        Chain("redi", read_table(TABLE).rows["redi"], 0, 1.0, place / "runs", seconds=40.0, known=known).perform(
            Processes()
        )


def test_what_is_done_is_not_done_again(place):
    run(place, ["dimo"])
    before = asked(place)
    run(place, ["dimo"])
    assert asked(place) == before
    run(place, ["dimo"], seeds=(0, 1, 2))
    more = [json.loads(Path(line.split()[-1]).read_text())["seed"] for line in asked(place)[len(before) :]]
    assert set(more) == {2}


def test_the_table_judges_the_papers_orderings(place):
    out = run(place, ["dimo", "sdtt"])
    text = (out / "equal time.md").read_text()
    assert "| fpd | dimo | FD, classifier | holds | 0.01 | FID 6.90 against 6.91 |" in text
    assert "| sdtt, 4 steps | sdtt, 1 step | FD, classifier | does not hold |" in text  # both the same here: not below
    assert "| di4c-d | di4c | FD, classifier | not measured | – |" in text
    assert "| fpd | 1 | none | × 1 | 40 | 40.5 ± 0.7 |" in text  # seeds 0 and 1: 40 and 41
    ours, published = text.split("## The paper's own Table 2")
    assert "6.91 |" not in ours.replace("against 6.91 |", "")
    assert "| DiMO | 1 | 6.91 | 214 | 0.83 | 0.38 |" in published
    assert (out / "steps.png").stat().st_size > 10_000
    assert (out / "equal updates.md").is_file()


def test_a_failed_row_ends_no_other_and_is_named(place):
    (place / "broken").write_text("dimo")
    run(place, ["dimo"], until="search")
    said = (place / "said.txt").read_text()
    assert "the disk is on fire" in said
    assert "fpd, seed 1000, rate x1, 8 updates: 8 updates of 1.00 s" in said
    assert set(json.loads((place / "out/search.json").read_text())) == {"fpd"}
    (place / "broken").write_text("fpd")
    for path in (place / "out/runs").glob("*/taken.json"):
        path.unlink()
    with pytest.raises(ValueError, match="fpd sets the budget of all rows"):
        run(place, [], until="training")


def test_published_rows_are_those_of_the_papers_table():
    tables = json.loads((ROOT / "packages/fpd-eval/src/fpd_eval/report/published/tables.json").read_text())["tables"]
    paper = next(table for table in tables if table["paper"] == "FPD" and table["table"] == "2")
    known = {(row["method"], row["steps"]): row["values"] for row in paper["rows"]}
    ours = read_table(TABLE).published
    assert len(ours) == len(known)
    for one in ours:
        name = "MaskGit" if one.method == "teacher" else one.method
        values = {
            "fid": one.fid,
            "inception_score": one.inception_score,
            "precision": one.precision,
            "recall": one.recall,
        }
        assert {key: value for key, value in values.items() if value is not None} == known[name, one.steps]


def test_orderings_name_rows_of_the_table():
    table = read_table(TABLE)
    shown = {f"{name}{added}" for name, row in table.rows.items() for added in row.students.values()}
    shown |= {stage.shown_as for row in table.rows.values() for stage in row.stages}
    assert {name for one in table.orderings for name in (one.better, one.worse)} <= shown


@pytest.mark.parametrize(
    ("difference", "p", "said"),
    [(-1, 0.01, "holds"), (1, 0.01, "does not hold"), (-1, 0.2, "within noise"), (0, None, "no spread: no verdict")],
)
def test_judge(difference, p, said):
    assert judge(difference, p) == said


def test_markdown():
    assert markdown(["a", "b"], [["1", "2"]]) == ["| a | b |", "| :--- | ---: |", "| 1 | 2 |"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": {"x": {"stages": [{"config": "a.json", "share": 0.5}]}}}, "add up to 0.5, not to 1"),
        ({"rows": {"x": {"stages": [{"config": "a.json"}], "rounds": 2}}}, "rounds and round_key belong together"),
        ({"rate_factor": [1]}, "rate_factor"),
    ],
)
def test_a_wrong_declaration_is_one_sentence(tmp_path, change, said):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(json.loads(TABLE.read_text()) | change))
    with pytest.raises(ConfigError, match=said):
        read_table(path)


def test_an_unknown_row_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'dimo'"):
        read_table(TABLE).only(["dmo"])


def test_a_child_tells_its_memory_and_its_last_words(tmp_path):
    """A child counts from what its parent holds, so the parent here is a small process."""
    program = (
        "import sys; from pathlib import Path; from fpd_train.reproduce.processes import Processes\n"
        "ended = Processes().call([sys.executable, '-c', \"b = bytearray(300 * 2**20); print('made')\"], Path('log'))\n"
        "print(ended.text.strip(), ended.peak_memory)"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, text=True, capture_output=True, check=True)
    word, peak = said.stdout.split()
    assert word == "made"
    assert 300 * 2**20 < int(peak) < 400 * 2**20
    with pytest.raises(Failed, match="exit code 3: no space"):
        Processes().call(
            [sys.executable, "-c", "import sys; print('no space', file=sys.stderr); sys.exit(3)"], tmp_path / "x"
        )


def test_systems_are_measured_side_by_side_and_each_once_before_they_are_compared(tmp_path):
    asked = []

    class Noted(Processes):
        def call(self, command, log):
            asked.append([word.split("=")[1].split(",") for word in command[command.index("--systems") + 1 :]])
            return Output(json.dumps({"rows": len(asked[-1])}), 0.0, 0)

    systems = [("a", [{"folder": "0"}, {"folder": "1"}]), ("b", [{"folder": "2"}])]
    assert Measuring(tmp_path, 10, Noted(), jobs=2).compare(systems, "x") == {"rows": 2}
    *parts, whole = asked
    assert sorted(len(part) for part in parts) == [1, 2]
    ahead = [file for part in parts for (file,) in part]
    assert sorted(ahead) == sorted(file for row in whole for file in row)
    assert [len(row) for row in whole] == [2, 1]
