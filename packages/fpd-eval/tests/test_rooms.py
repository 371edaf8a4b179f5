"""The rooms of fpd-eval and the only doors between them; a door that is not listed is an error."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "fpd_eval"
FILES = sorted(SOURCE.rglob("*.py"))
# Room -> rooms it may import. Rooms stand in the order of their floors: a room imports only from above itself here.
DOORS = {
    "runtime": set(),
    "metrics": set(),
    "images": {"runtime", "metrics"},
    "protocols": {"images"},
    "extractors": {"images", "metrics", "runtime"},
    "systems": {"images", "runtime"},
    "bench": {"extractors", "images", "metrics", "protocols", "runtime", "systems"},
    "geneval": {"extractors", "images", "metrics", "runtime", "systems"},
    "report": {"bench", "geneval", "metrics", "protocols", "runtime", "systems"},
    "commands": {
        "bench", "extractors", "geneval", "images", "metrics", "protocols", "report", "runtime", "systems"
    },
    "cli": {"commands"},
    "__main__": {"cli"},
    "__init__": set(),
}  # fmt: skip


def room_of(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fpd_eval":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fpd_eval."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fpd_eval."))


def test_there_are_files_to_check():
    assert len(FILES) > 50


def test_doors_lead_down():
    floors = list(DOORS)
    for room, doors in DOORS.items():
        assert doors <= set(floors[: floors.index(room)]), f"{room} imports upwards"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_listed_doors_are_used(path):
    room = room_of(path)
    assert room in DOORS, f"{path.name} stands in no room"
    assert set(imported_rooms(path)) - {room} <= DOORS[room]


def test_every_door_is_used():
    used = {(room_of(path), door) for path in FILES for door in imported_rooms(path)}
    assert {(room, door) for room, doors in DOORS.items() for door in doors} <= used


def test_the_hall_is_empty():
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_hold_one_idea(path):
    assert len(path.read_text().splitlines()) <= 220


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nobody_asks_what_kind_of_system_it_is(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            assert "System" not in ast.unparse(node.args[1])
            assert "Kind" not in ast.unparse(node.args[1])
