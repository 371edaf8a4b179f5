"""What `fpd-eval compare` says of finished students. A table never measures by itself."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpd_core.atomic import write_text
from fpd_train.reproduce.chain import digest
from fpd_train.reproduce.processes import Processes

System = tuple[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Measuring:
    """Where and on how many images."""

    out: Path
    num_images: int
    processes: Processes
    jobs: int = 1

    def compare(
        self,
        systems: Sequence[System],
        name: str,
        pairs: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """The results of `fpd-eval compare --json`; what was measured before is not measured again.

        Args:
            systems: rows and, per training seed, the section of a system file.
            name: of the report's folder.
            pairs: rows that verdicts compare.

        Raises:
            Failed: the comparison ended badly.
        """
        files = [(row, [self._file(one) for one in seeds]) for row, seeds in systems]
        self._fill_cache([file for _, seeds in files for file in seeds], name)
        asked = [word for first, second in pairs for word in ("--pair", f"{first},{second}")]
        return self._call(name, [f"{row}={','.join(map(str, seeds))}" for row, seeds in files], *asked)

    def _fill_cache(self, files: Sequence[Path], name: str) -> None:
        """Measure the systems side by side, each part in a process of its own; the comparison then finds them."""
        if self.jobs == 1:
            return
        parts = [files[start :: self.jobs] for start in range(min(self.jobs, len(files)))]
        with ThreadPoolExecutor(self.jobs) as pool:
            for part in [
                pool.submit(self._call, f"{name}-{number}", [f"{place}={file}" for place, file in enumerate(part)])
                for number, part in enumerate(parts)
            ]:
                part.result()

    def _call(self, name: str, systems: Sequence[str], *more: str) -> dict[str, Any]:
        out = self.out / "reports" / name
        command = ["fpd-eval", "compare", "--json", "--num-images", str(self.num_images), *more]
        command += ["--cache-dir", str(self.out / "cache"), "--out", str(out), "--systems", *systems]
        found: dict[str, Any] = json.loads(self.processes.call(command, out.with_name(f"{name}.log")).text)
        return found

    def _file(self, section: Mapping[str, Any]) -> Path:
        path = self.out / "systems" / f"{digest(section)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(section) + "\n")
        return path


def teacher_systems(teacher: str, steps: Sequence[int], samplers: Sequence[str]) -> list[System]:
    """Rows of the teacher; those of a sampler share a name and are one curve."""
    section = {"kind": "teacher", "name": "teacher", "teacher": teacher}
    return [
        (f"teacher, {sampler}", [section | {"steps": number, "sampler": sampler}])
        for sampler in samplers
        for number in steps
    ]


def student_systems(students: Mapping[str, Sequence[Path]], steps: int | None = None) -> list[System]:
    """Rows of students, one folder per training seed; `steps` in place of those that they were exported with."""
    section: dict[str, Any] = {"kind": "student", "name": "student"} | ({} if steps is None else {"steps": steps})
    return [(name, [section | {"folder": str(one.resolve())} for one in found]) for name, found in students.items()]
