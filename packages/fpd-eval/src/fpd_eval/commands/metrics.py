"""`fpd-eval metrics`: FID, IS, precision and recall, KID, FDD of a generator or of images, by a named protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpd_eval.commands.protocols import EncoderOption, battery_of
from fpd_eval.commands.usage import (
    CACHE,
    CardOption,
    JsonOption,
    batch_size_of,
    given,
    look_first,
    student_folder,
    user_errors,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fpd_eval.bench.bench import MetricResult
    from fpd_eval.images.image_set import ImageSet
    from fpd_eval.protocols import MetricProtocol
    from fpd_eval.systems import SystemKind
    from fpd_eval.systems.system import System


def metrics(
    protocol: Annotated[
        str, typer.Option(help="dimo, adm, clean, fdd, small, battery or battery-photos; see docs/evaluation.md.")
    ],
    ckpt: Annotated[
        str | None, typer.Option(metavar="DIR|OWNER/NAME", help="Student to generate with: folder or hub repository.")
    ] = None,
    system: Annotated[Path | None, typer.Option(metavar="JSON", help="System file to generate with.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher family or weight folder to generate with.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of the teacher.")] = None,
    sampler: Annotated[str | None, typer.Option(help="How the teacher decodes: confidence or halton.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Of the teacher; by default its family's.")] = None,
    images: Annotated[Path | None, typer.Option(help="Measure these instead: a folder, or an .npz with arr_0.")] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="mu/sigma .npz, images .npz or image folder; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="fid, sfid, is, prc, kid or fdd instead of all; may be repeated.")
    ] = None,
    encoder: EncoderOption = None,
    num_images: Annotated[int | None, typer.Option(help="Instead of the protocol's number.")] = None,
    num_reference: Annotated[int | None, typer.Option(help="Instead of the protocol's number.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all generated images.")] = None,
    generate_batch: Annotated[int | None, typer.Option(help="Images per generator call; part of the protocol.")] = None,
    batch_size: Annotated[str, typer.Option(metavar="auto|N", help="Images per call of a feature network.")] = "auto",
    weights: Annotated[
        list[str] | None, typer.Option(metavar="EXTRACTOR=PATH", help="Weight file elsewhere; may be repeated.")
    ] = None,
    save_images: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the images as PNG files.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda (one GPU per rank) or cuda:N.")] = "auto",
    cache_dir: Annotated[
        Path, typer.Option(help="Where features and numbers are kept; one folder for all ranks.")
    ] = CACHE,
    write_card: CardOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a student, a teacher or images by a named protocol. Killed runs continue; `torchrun` shares the work."""
    with user_errors():
        from rich.console import Console

        from fpd_core.devices import device_called, in_words

        look_first(device, save_images)

        from fpd_eval.bench.battery import OWN_JUDGE, is_judged_by_its_loss
        from fpd_eval.bench.bench import Place, measure_images, open_bench
        from fpd_eval.extractors.required import require_weights
        from fpd_eval.images.image_files import saved_images
        from fpd_eval.protocols import MetricProtocol, protocol_called
        from fpd_eval.runtime.cache import Cache
        from fpd_eval.runtime.progress import bars, silent
        from fpd_eval.runtime.ranks import joined, local_device

        if write_card and ckpt is None:
            raise ValueError("--write-card belongs to --ckpt, whose card it writes")
        student = None if ckpt is None else student_folder(ckpt, write_card=write_card)
        changed = _present(
            num_images=num_images,
            num_reference=num_reference,
            seed=seed,
            batch_size=generate_batch,
            metrics=only or None,
        )
        preset = protocol_called(protocol)
        changed |= battery_of(preset, encoder or [])
        chosen = given(MetricProtocol, **preset.without_classes().model_dump() | changed)
        with joined() as ranks:
            where = local_device(device_called(device))
            errors = Console(stderr=True, quiet=not ranks.is_main)
            track = bars(errors) if ranks.is_main else silent
            place = Place(
                Cache(cache_dir), where, track, ranks, batch_size_of(batch_size), _weight_paths(weights or [])
            )
            bench = open_bench(chosen, place, references=reference or (), only=chosen.metrics if only else ())
            kinds = _kinds(student, system, teacher, steps=steps, sampler=sampler, guidance_scale=guidance_scale)
            if len(kinds) + (images is not None) != 1:
                raise ValueError("name what to measure with exactly one of --ckpt, --teacher, --system and --images")
            if kinds:  # nothing is drawn in vain
                require_weights(bench.wanted, place.weights or {})
            generator, measured = _source(chosen, kinds, images, where)
            if errors.is_terminal:
                errors.print(f"device: {in_words(where)}", markup=False, highlight=False, soft_wrap=True)
            seen = generator.encoders if generator else None
            own_judge = is_judged_by_its_loss(seen, bench)
            if save_images is not None:
                measured = saved_images(measured, save_images, track, ranks)
            found = measure_images(measured, bench, system=_record(generator))
        if found is not None:
            said = [f"left out: {lack}" for lack in bench.lacks] + ([OWN_JUDGE] if own_judge else [])
            found = found.model_copy(update={"encoders": seen, "warnings": (*said, *found.warnings)})
            if write_card and student is not None:
                from fpd_eval.report.card import write_measured

                write_measured(found, student)
            _show(found, as_json=as_json)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _weight_paths(arguments: list[str]) -> dict[str, Path]:
    from fpd_eval.extractors import EXTRACTORS

    found = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator:
            raise ValueError(f"--weights is EXTRACTOR=PATH, got {argument!r}")
        EXTRACTORS.find(name)
        found[name] = Path(path)
    return found


def _kinds(ckpt: Path | None, system: Path | None, teacher: str | None, **options: Any) -> "list[SystemKind]":
    """Every system that the options name."""
    from fpd_eval.systems import read_system
    from fpd_eval.systems.student import StudentKind
    from fpd_eval.systems.teacher import TeacherKind

    kinds: list[SystemKind] = []
    if ckpt is not None:
        kinds.append(StudentKind(name="student", folder=ckpt))
    if system is not None:
        kinds.append(read_system(system))
    if teacher is not None:
        kinds.append(given(TeacherKind, name="teacher", teacher=teacher, **options))
    elif _present(**options):
        raise ValueError("--steps, --sampler and --guidance-scale belong to --teacher")
    return kinds


def _source(
    protocol: "MetricProtocol", kinds: "list[SystemKind]", images: Path | None, device: "torch.device"
) -> "tuple[System | None, ImageSet[Tensor]]":
    """The system, None where ready images are measured, and its images."""
    from fpd_eval.images.image_files import open_images

    if images is not None:
        return None, open_images(images, protocol.batch_size)
    system = kinds[0].load(device)
    if system.num_classes is None:
        raise ValueError(f"{system.name} makes no images of classes; generate them first and measure with --images")
    return system, system.image_set(protocol.plan(system.num_classes))


def _record(system: "System | None") -> dict[str, Any]:
    return {} if system is None else {"name": system.name, "steps": system.steps, **system.settings}


def _show(result: "MetricResult", *, as_json: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fpd_core.untrusted import printable

    if as_json:
        print(result.model_dump_json(indent=2))
        return
    console = Console()
    protocol = result.protocol
    title = escape(f"{printable(result.images)}: protocol {protocol.name}")
    table = Table("metric", "value", title=title, title_justify="left")
    for name, value in result.values.items():
        table.add_row(name, f"{value:.6g}")
    console.print(table)
    against = f"against {result.reference}" if result.reference else "without reference"
    console.print(f"{result.num_images} images {against}; follows {protocol.source}", markup=False, highlight=False)
    console.print(result.machine.sentence(), markup=False, highlight=False, style="dim")
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
