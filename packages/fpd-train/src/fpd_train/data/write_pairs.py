"""Drawing ReDi's pairs k -> k+1 (arXiv 2507.15897) into shards, one after the other: a killed command goes on there."""

from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from pydantic import Field

from fpd_core import atomic
from fpd_core.conditioning import ClassCondition, Condition, PromptCondition
from fpd_core.config import Amount, Config, Guidance, MaskShare, Name, Number, Seed, Size
from fpd_core.generator import Generator
from fpd_core.rivals.redi import draw_pairs, source_tokens
from fpd_core.schedules import RevealRule, reveal_plan
from fpd_core.ste import sample_tokens
from fpd_train.data import DataConfig, open_stream
from fpd_train.data.pair_shards import SETTINGS, TOKEN
from fpd_train.data.resumable import begin, finish
from fpd_train.errors import DataError
from fpd_train.seeds import seeded


class PairsConfig(Config):
    """All that decides the pairs; kept beside them."""

    model: Name = Field(description="SHA-256 of the network's weights.")
    captions: dict[str, Any] | None = Field(None, description="Data section that they come from; null: classes.")
    count: Amount = Field(description="Pairs; of classes, as many of each as of any other.")
    per_shard: Size = Field(description="Pairs per tar, drawn in one batch.")
    steps: Size = Field(description="N of the sampler.")
    guidance_scale: Guidance = Field(description="g in the last step, rising from 1; the paper's w is g - 1.")
    mask_share: MaskShare = Field(description="Of [MASK] in a source.")
    ranking_noise: Number = Field(ge=0, le=1e3, description="Gumbel noise on the ranking.")
    rule: RevealRule = Field(description="How many tokens each step fixes.")
    seed: Seed = Field(description="Of all draws.")


def write_pairs(
    generator: Generator, config: PairsConfig, folder: Path, captions: DataConfig | None = None
) -> Iterator[tuple[int, int]]:
    """Write the shards that are missing, then `sizes.json`, without which the folder cannot be read.

    Every shard is a function of the settings and its number.

    Args:
        captions: a data source, for a model that reads text; `config.captions` names it.

    Yields:
        (pairs that are there, pairs that will be), after each shard.

    Raises:
        DataError: the folder holds something else, or pairs of other settings; or a model that reads text lacks
            captions, or another has some.
    """
    if (generator.model.num_classes is None) != (captions is not None):
        what = "reads text: name a config whose data has captions" if captions is None else "draws classes: no config"
        raise DataError(f"the student {what} (--config)")
    begin(folder, SETTINGS, config.model_dump(mode="json"), "pairs")
    sizes: dict[str, int] = {}
    for number in numbers():
        first = number * config.per_shard
        if first >= config.count:
            break
        name, size = f"shard-{number:05d}.tar", min(config.per_shard, config.count - first)
        if not (folder / name).exists():
            _write_shard(generator, config, number, size, folder / name, captions)
        sizes[name] = size
        yield sum(sizes.values()), config.count
    finish(folder, sizes)


def _write_shard(
    generator: Generator, config: PairsConfig, number: int, size: int, path: Path, captions: DataConfig | None
) -> None:
    model, first = generator.model, number * config.per_shard
    if captions is None:
        assert model.num_classes is not None
        labels = torch.arange(first, first + size) % model.num_classes
        wanted: Condition = ClassCondition(labels)
        ending, texts = "cls", [str(label) for label in labels.tolist()]
    else:
        wanted = _captions(captions, config, first)[:size]
        ending, texts = "txt", list(wanted.prompts)
    random = seeded("pairs", config.seed, number, device=model.device)
    source, target = draw(generator, config, model.condition(wanted), random)
    with atomic.replacing(path) as partial, partial.open("wb") as file, wds.TarWriter(file) as writer:
        rows = zip(texts, source.cpu().numpy(), target.cpu().numpy(), strict=True)
        for index, (text, x0, x1) in enumerate(rows, start=first):
            tokens = {"src": x0.astype(TOKEN).tobytes(), "tgt": x1.astype(TOKEN).tobytes()}
            writer.write({"__key__": f"{index:08d}", ending: text.encode(), **tokens})


def _captions(source: DataConfig, config: PairsConfig, first: int) -> PromptCondition:
    """Those of a shard: a batch of the source's order from sample `first` on."""
    stream = open_stream(source, batch_size=config.per_shard, seed=config.seed, rank=0, world=1, position=first)
    condition = next(stream).condition
    if not isinstance(condition, PromptCondition):
        raise DataError(f"pairs of a student that reads text need captions, and data.name {source.name!r} has none")
    return condition


@torch.no_grad()
def draw(
    generator: Generator, config: PairsConfig, condition: Condition, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """x⁰ and x¹ [B, L] of B conditions."""
    model, shape = generator.model, (len(condition), generator.model.seq_len)
    codes = torch.randint(model.codebook_size, shape, generator=random, device=model.device)
    uniform = torch.rand(shape, generator=random, device=model.device)
    source = source_tokens(codes, uniform, model.mask_id, config.mask_share)
    noise = torch.rand(config.steps, *shape, generator=random, device=model.device).clamp_min(1e-20)
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
