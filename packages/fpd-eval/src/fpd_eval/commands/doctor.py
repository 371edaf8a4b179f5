"""`fpd-eval doctor`: which metrics can run with the weights at hand."""

from typing import Any

from fpd_eval.commands.usage import JsonOption, user_errors


def doctor(
    as_json: JsonOption = False,
) -> None:
    """List which metrics can run with the weight files at hand, and where missing ones are published and belong."""
    with user_errors():
        import json

        from fpd_core.plugins import records as plug_ins
        from fpd_core.plugins import summary
        from fpd_eval.extractors.weights import EVAL_WEIGHTS

        records: list[dict[str, Any]] = [
            {
                "name": name,
                "metrics": list(weight.metrics),
                "what": weight.what,
                "published": weight.published,
                "place": str(weight.local),
                "present": weight.is_present,
                "note": weight.note,
            }
            for name, weight in EVAL_WEIGHTS.items()
        ]
        if as_json:
            print(json.dumps([*records, *plug_ins()], indent=2))
            return
        _show(records)
        print(summary(), end="")


def _show(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for record in records:
        mark, colour = ("ready  ", "green") if record["present"] else ("missing", "yellow")
        console.print(Text.assemble((mark, colour), "  ", ("; ".join(record["metrics"]), "bold")), soft_wrap=True)
        lines = [record["what"], record["place"]]
        if not record["present"]:
            lines[1] = f"put it at {record['place']}"
            lines.append(f"published as {record['published']}")
        for line in (*lines, record["note"]):
            if line:
                console.print(Text(f"         {line}"), soft_wrap=True)
    missing = sum(not record["present"] for record in records)
    console.print(f"{len(records) - missing} of {len(records)} weight files are here")
