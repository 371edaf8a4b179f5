"""`fpd-eval compare` and `fpd-eval report`: one table and one report of several systems."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpd_eval.commands import usage
from fpd_eval.commands.arguments import candidate, named_files, row_pair, system_files
from fpd_eval.commands.protocols import EncoderOption, compared
from fpd_eval.commands.usage import CACHE, CacheOption, CardOption, DeviceOption, JsonOption, given, user_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fpd_eval.bench.rows import Results
    from fpd_eval.protocols import MetricProtocol
    from fpd_eval.report.entrants import Comparison


def compare(
    ckpt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR[,DIR...]",
            help="Student folder or OWNER/NAME of the hub, or NAME and one per training seed of a recipe; may be "
            "repeated.",
        ),
    ] = None,
    systems: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]JSON...",
            help="System files: --systems a.json b.json, or NAME=seed0.json,seed1.json.",
        ),
    ] = None,
    geneval: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE[,FILE...]...", help="Finished GenEval: system's name, its results.jsonl of every seed."
        ),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW,ROW", help="Two rows that verdicts compare; may be repeated. By default every two."),
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Teacher steps, as in: --steps 1 2 4.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Teacher family or weight folder; by default the student's own.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="How the teacher decodes: confidence or halton.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Of the teacher; 1 turns guidance off.")] = None,
    protocol: Annotated[
        str, typer.Option(help="small or battery (the bundled world), battery-photos, dimo, adm, clean or fdd.")
    ] = "small",
    encoder: EncoderOption = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="Of the other protocols: mu/sigma or images; may be repeated.")
    ] = None,
    num_images: Annotated[int | None, typer.Option(help="Generated images per system.")] = None,
    num_references: Annotated[
        int | None,
        typer.Option("--num-references", "--num-reference", help="Real images to compare with; all by default."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all generated images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch; part of the protocol.")] = None,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Report folder; by default `report` beside the first student, or here.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Training run whose loss curves are shown.")] = None,
    cache_dir: CacheOption = CACHE,
    write_card: CardOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teachers, students, baselines and folders of images: one table with the published values, one report.

    --ckpt brings a student, its teacher at each step count and the teacher's untrained one-step use.
    """
    with user_errors():
        from fpd_eval.report.entrants import Comparison

        ckpt = ckpt or []
        students = [candidate(argument, alone=len(ckpt) == 1, write_card=write_card) for argument in ckpt]
        folder = out or (students[0].beside if students else Path()) / "report"
        usage.look_first(device, folder)
        comparison = given(
            Comparison,
            students=students,
            systems=[system_files(argument) for argument in systems or []],
            geneval=[named_files(argument) for argument in geneval or []],
            pairs=[row_pair(argument) for argument in pair or []],
            steps=steps,
            teacher=teacher,
            sampler=sampler,
            guidance_scale=guidance_scale,
        )
        wanted = compared(
            protocol,
            reference or [],
            encoder or [],
            num_images=num_images,
            num_reference=num_references,
            seed=seed,
            batch_size=batch_size,
        )
        results = _compare(comparison, wanted, reference or [], device=device, run=run, cache_dir=cache_dir)
        if write_card:
            from fpd_eval.report.card import write_compared

            write_compared(results, students)
        _show(results, folder, as_json=as_json)


def report(
    results: Annotated[Path, typer.Option(help="`results.json` of an earlier comparison.")],
    out: Annotated[Path, typer.Option(help="Report folder.")],
) -> None:
    """Write the report of an earlier comparison again."""
    with user_errors():
        from fpd_eval.bench.rows import read_results

        found = read_results(results)
        try:
            _show(found, out, as_json=False)
        except ValueError as error:
            raise ValueError(f"{results}: {error}") from None


def _compare(
    comparison: "Comparison",
    protocol: "MetricProtocol",
    references: "Sequence[Path]",
    *,
    device: str,
    run: Path | None,
    cache_dir: Path,
) -> "Results":
    from rich.console import Console

    from fpd_eval.bench.bench import Place, open_bench
    from fpd_eval.bench.curves import METRICS, read_curves
    from fpd_eval.extractors.required import require_weights
    from fpd_eval.report.comparison import compare, read_kinds
    from fpd_eval.report.entrants import entrants
    from fpd_eval.runtime.cache import Cache
    from fpd_eval.runtime.progress import bars

    beside = comparison.students[0].beside if comparison.students else None
    run = run or (beside if beside and (beside / METRICS).is_file() else None)
    curves = read_curves(run) if run else ()
    kinds, judged = read_kinds(comparison)
    place = Place(Cache(cache_dir), usage.opened_device(device), bars(Console(stderr=True)))
    bench = open_bench(protocol, place, references=references) if comparison.students or kinds else None
    if bench is not None:
        require_weights(bench.wanted, {})
    measured = entrants(comparison, kinds, num_classes=len(protocol.class_names) or None, device=str(place.device))
    where = str(place.device)
    return compare(measured, bench, judged=judged, device=where, curves=curves, asked=comparison.pairs)


def _show(results: "Results", folder: Path, *, as_json: bool) -> None:
    """Write the report; print the table and the report's place, or only JSON."""
    from rich.console import Console

    from fpd_core.untrusted import printable
    from fpd_eval.report.battery_table import battery_cells, battery_notes
    from fpd_eval.report.cells import footnotes, published_cells, tables
    from fpd_eval.report.geneval_rows import judge_notes
    from fpd_eval.report.page import write_report
    from fpd_eval.report.seeds import seed_notes, verdict_cells
    from fpd_eval.report.tables import terminal_table
    from fpd_eval.report.verdict import merged, verdict_sentence

    page = write_report(results, folder)
    if as_json:
        strips = {"__all__": {"samples", "warnings"}}
        print(results.model_dump_json(indent=2, exclude={"curves": True, "rows": strips, "geneval": strips}))
        return
    results = merged(results)
    console = Console()
    console.print(printable(verdict_sentence(results)), markup=False, highlight=False)
    more = (battery_cells(results, short=True), published_cells(results), verdict_cells(results))
    for table in (*tables(results, short=True), *more):
        if table is not None:
            console.print(terminal_table(table))
    noted = (*footnotes(results), *judge_notes(results), *battery_notes(results), *seed_notes(results))
    for text in (*noted, *results.warnings):
        console.print(printable(text), markup=False, highlight=False, style="dim")
    if results.protocol is not None:
        console.print(results.protocol.sentence(), markup=False, highlight=False, style="dim")
    console.print(results.machine.sentence(), markup=False, highlight=False, style="dim")
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
