"""Drawing ReDi's pairs k -> k+1 (arXiv 2507.15897) into shards, one after the other: a killed command goes on there."""

from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path

import torch
import webdataset as wds
from pydantic import Field

from fpd_core import atomic
from fpd_core.conditioning import ClassCondition
from fpd_core.config import Amount, Config, Guidance, MaskShare, Name, Number, Seed, Size
from fpd_core.generator import Generator
from fpd_core.rivals.redi import draw_pairs, source_tokens
from fpd_core.schedules import RevealRule, reveal_plan
from fpd_core.ste import sample_tokens
from fpd_train.data.pair_shards import SETTINGS, TOKEN
from fpd_train.data.resumable import begin, finish
from fpd_train.errors import DataError
from fpd_train.seeds import seeded


class PairsConfig(Config):
    """All that decides the pairs; kept beside them."""

    model: Name = Field(description="SHA-256 of the network's weights.")
    count: Amount = Field(description="Pairs, as many of each class as of any other.")
    per_shard: Size = Field(description="Pairs per tar, drawn in one batch.")
    steps: Size = Field(description="N of the sampler.")
    guidance_scale: Guidance = Field(description="g in the last step, rising from 1; the paper's w is g - 1.")
    mask_share: MaskShare = Field(description="Of [MASK] in a source.")
    ranking_noise: Number = Field(ge=0, le=1e3, description="Gumbel noise on the ranking.")
    rule: RevealRule = Field(description="How many tokens each step fixes.")
    seed: Seed = Field(description="Of all draws.")


def write_pairs(generator: Generator, config: PairsConfig, folder: Path) -> Iterator[tuple[int, int]]:
    """Write the shards that are missing, then `sizes.json`, without which the folder cannot be read.

    Every shard is a function of the settings and its number.

    Yields:
        (pairs that are there, pairs that will be), after each shard.

    Raises:
        DataError: the folder holds something else, or pairs of other settings; or the family has no classes.
    """
    if generator.model.num_classes is None:
        raise DataError("pairs are drawn by class, and this model reads text")
    begin(folder, SETTINGS, config.model_dump(mode="json"), "pairs")
    sizes: dict[str, int] = {}
    for number in numbers():
        first = number * config.per_shard
        if first >= config.count:
            break
        name, size = f"shard-{number:05d}.tar", min(config.per_shard, config.count - first)
        if not (folder / name).exists():
            _write_shard(generator, config, number, size, folder / name)
        sizes[name] = size
        yield sum(sizes.values()), config.count
    finish(folder, sizes)


def _write_shard(generator: Generator, config: PairsConfig, number: int, size: int, path: Path) -> None:
    model, first = generator.model, number * config.per_shard
    assert model.num_classes is not None
    labels = (torch.arange(first, first + size) % model.num_classes).to(model.device)
    source, target = draw(generator, config, labels, seeded("pairs", config.seed, number, device=model.device))
    with atomic.replacing(path) as partial, partial.open("wb") as file, wds.TarWriter(file) as writer:
        rows = zip(labels.tolist(), source.cpu().numpy(), target.cpu().numpy(), strict=True)
        for index, (label, x0, x1) in enumerate(rows, start=first):
            tokens = {"src": x0.astype(TOKEN).tobytes(), "tgt": x1.astype(TOKEN).tobytes()}
            writer.write({"__key__": f"{index:08d}", "cls": str(label).encode(), **tokens})


@torch.no_grad()
def draw(
    generator: Generator, config: PairsConfig, labels: torch.Tensor, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """x⁰ and x¹ [B, L] of classes [B]."""
    model, condition = generator.model, ClassCondition(labels)
    shape = (len(labels), model.seq_len)
    codes = torch.randint(model.codebook_size, shape, generator=random, device=labels.device)
    uniform = torch.rand(shape, generator=random, device=labels.device)
    source = source_tokens(codes, uniform, model.mask_id, config.mask_share)
    noise = torch.rand(config.steps, *shape, generator=random, device=labels.device).clamp_min(1e-20)
    drawn = draw_pairs(
        lambda tokens, scale: model.guided_logits(tokens, condition, scale),
        lambda p: sample_tokens(p.log(), generator=random),
        source,
        reveal_plan(model.seq_len, config.steps, rule=config.rule),
        -(-noise.log()).clamp_min(1e-20).log(),
        mask_id=model.mask_id,
        guidance=config.guidance_scale - 1,
        noise=config.ranking_noise,
    )
    return source, drawn.tokens
