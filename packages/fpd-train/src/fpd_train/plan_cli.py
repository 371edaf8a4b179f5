"""`fpd-train plan`: memory, communication, time and cost of a run, before it is paid for."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

MANY = 2**16


def plan_command(
    config: Annotated[Path, typer.Option("--config", help="A JSON file such as configs/maskgit.json.")],
    gpus: Annotated[int, typer.Option(min=1, max=MANY, help="Cards of the whole run.")] = 1,
    gpu: Annotated[str, typer.Option(help="Which card; an unknown name lists the known ones.")] = "h100",
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one value.")] = [],  # noqa: B006
    price: Annotated[float | None, typer.Option(min=0, help="Dollars per card and hour; else an assumption.")] = None,
    efficiency: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the peak that a step reaches.")] = 0.17,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """What a run takes on N cards: memory by part, bytes sent, time, cost, and what to change if it does not fit.

    Nothing is loaded and nothing computed: networks have shapes alone. Exit code 1 if it does not fit.
    """
    began = time.perf_counter()
    from fpd_train.plan.gpus import gpu as card_of

    card = card_of(gpu)
    from fpd_train.config import load_config
    from fpd_train.plan.estimate import Assumptions, estimate
    from fpd_train.plan.outline import outline
    from fpd_train.plan.page import record, show

    loaded = load_config(config, set_)
    found = outline(loaded, gpus)
    assumed = Assumptions(efficiency, card.price if price is None else price)
    result = estimate(loaded, found, gpus, card, assumed)
    if as_json:
        print(json.dumps(record(found, result, assumed, time.perf_counter() - began), indent=2))
    else:
        show(loaded, gpu, card, gpus, found, result, assumed)
        print(f"planned in {time.perf_counter() - began:.1f} s, without loading a weight")
    if result.change is not None:
        raise typer.Exit(1)
