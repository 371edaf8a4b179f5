"""The cost line of every shipped recipe, for docs/deploy-training.md: python ci/cost_lines.py [CONFIG ...]"""

import json
import sys
from pathlib import Path

from fpd_train.config import load_config
from fpd_train.plan.estimate import Assumptions, estimate
from fpd_train.plan.gpus import GPUS
from fpd_train.plan.outline import outline
from fpd_train.plan.page import cost_line

ROOT = Path(__file__).resolve().parents[1]
EFFICIENCY = 0.17  # the command's default
BUNDLED = ("l4", 1)  # small networks: one small card
PUBLIC = ("h100", 8)


def recipes() -> list[Path]:
    """Every run under configs/."""
    return [path for path in sorted((ROOT / "configs").rglob("*.json")) if "method" in json.loads(path.read_text())]


def line(path: Path) -> str:
    """A row of the table; of a recipe that cannot be planned, why not."""
    recipe = f"`{path.relative_to(ROOT / 'configs')}`"
    name, world = BUNDLED if path.name.startswith(("fashion", "scenes")) else PUBLIC
    card = GPUS[name]
    try:
        config = load_config(path)
        result = estimate(config, outline(config, world), world, card, Assumptions(EFFICIENCY, card.price))
    except ValueError as error:
        return f"| {recipe} | no plan: {'; '.join(str(error).splitlines())} |"
    fits = "" if result.change is None else f"; does not fit, change first: {result.change[0]}"
    return f"| {recipe} | {cost_line(config, name, world, result)}{fits} |"


if __name__ == "__main__":
    for recipe in [Path(one).resolve() for one in sys.argv[1:]] or recipes():
        print(line(recipe), flush=True)
