"""mmdetection's Mask2Former Swin-S (COCO instances) in the names of transformers: a strict map of all 649 keys.

The networks are one; only the order of channels where patches merge differs. Names and shapes alone do not catch a
wrong map, so everything is checked that can be: keys, shapes, index tables, finite numbers, that nothing is left over.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fpd_core.checkpoints import CheckpointError
from fpd_core.containers import read_public
from fpd_eval.geneval.classes import CLASSES

DEPTHS, WINDOW = (2, 2, 18, 2), 7
BACKBONE, HEAD = "backbone.", "panoptic_head."
PIXELS, QUERIES = f"{HEAD}pixel_decoder.", f"{HEAD}transformer_decoder."
SWIN, NORMS = "model.pixel_level_module.encoder.swin.", "model.pixel_level_module.encoder.hidden_states_norms."
DECODER, TRANSFORMER = "model.pixel_level_module.decoder.", "model.transformer_module."
# Of the network in transformers; none takes part in the logits.
WITHOUT_SOURCE = (f"{SWIN}layernorm.weight", f"{SWIN}layernorm.bias", "criterion.empty_weight")
DIGEST = re.compile(r"-([0-9a-f]{8})\.pth")

Rule = tuple[str, str, tuple[str, ...]]
"""mmdetection's key, what happens to the tensor, keys of transformers."""


def load_mmdet(path: Path) -> nn.Module:
    """transformers' Mask2Former with the weights of a file of mmdetection 3.x or 2.x.

    Raises:
        CheckpointError: damaged, cut short, or not exactly this network; the message names the first key.
    """
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    named = DIGEST.search(path.name)
    if named and not (digest := _sha256(path)).startswith(named.group(1)):
        raise CheckpointError(f"{path} is damaged: its SHA-256 starts with {digest[:8]}, not with {named.group(1)}")
    network: Any = Mask2FormerForUniversalSegmentation(Mask2FormerConfig.from_dict({"num_labels": len(CLASSES)}))
    own = network.state_dict()
    mapped = from_mmdet(read_public(path), path)
    _require_same("transformers' Mask2Former", {*mapped, *WITHOUT_SOURCE}, set(own), path)
    for key, value in mapped.items():
        if value.shape != own[key].shape:
            raise CheckpointError(f"{path}: {key} is {list(value.shape)}, this network has {list(own[key].shape)}")
    network.load_state_dict(mapped | {key: own[key] for key in WITHOUT_SOURCE})
    module: nn.Module = network.eval()
    return module


def from_mmdet(state: Mapping[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """The state dict in transformers' names, from the names of mmdetection 3.x or 2.x.

    Raises:
        CheckpointError: another set of keys, a number that is not finite, a tensor that cannot be cut or reordered, or
            a table of positions with other values.
    """
    known = {_renamed(key): value for key, value in state.items()}
    wanted = {source: (action, targets) for source, action, targets in rules()}
    _require_same("mmdetection's mask2former_swin-s", set(wanted), set(known), path)
    mapped: dict[str, Tensor] = {}
    for source, (action, targets) in wanted.items():
        value = known[source]
        try:
            if action != "check" and not (value.is_floating_point() and bool(value.isfinite().all())):
                raise ValueError("holds no finite numbers")
            mapped |= dict(zip(targets, ACTIONS[action](value), strict=True))
        except ValueError as error:
            raise CheckpointError(f"{path}: {source} {error}") from None
    return mapped


def rules() -> Iterator[Rule]:
    """One for each of the 649 keys of mmdetection 3.x."""
    yield from _both(f"{BACKBONE}patch_embed.projection", f"{SWIN}embeddings.patch_embeddings.projection")
    yield from _both(f"{BACKBONE}patch_embed.norm", f"{SWIN}embeddings.norm")
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            yield from _swin_block(
                f"{BACKBONE}stages.{stage}.blocks.{block}.", f"{SWIN}encoder.layers.{stage}.blocks.{block}."
            )
        yield from _both(f"{BACKBONE}norm{stage}", f"{NORMS}stage{stage + 1}")
    for stage in range(len(DEPTHS) - 1):
        source, target = f"{BACKBONE}stages.{stage}.downsample.", f"{SWIN}encoder.layers.{stage}.downsample."
        yield from _both(f"{source}norm", f"{target}norm", action="merge")
        yield f"{source}reduction.weight", "merge", (f"{target}reduction.weight",)
    yield from _pixel_decoder()
    for layer in range(9):
        yield from _query_layer(f"{QUERIES}layers.{layer}.", f"{TRANSFORMER}decoder.layers.{layer}.")
    yield from _both(f"{QUERIES}post_norm", f"{TRANSFORMER}decoder.layernorm")
    for source, target in (("query_embed", "queries_embedder"), ("query_feat", "queries_features")):
        yield f"{HEAD}{source}.weight", "copy", (f"{TRANSFORMER}{target}.weight",)
    yield f"{HEAD}level_embed.weight", "copy", (f"{TRANSFORMER}level_embed.weight",)
    for place in range(3):
        target = f"{TRANSFORMER}decoder.mask_predictor.mask_embedder.{place}.0"
        yield from _both(f"{HEAD}mask_embed.{2 * place}", target)
    yield from _both(f"{HEAD}cls_embed", "class_predictor")


def _swin_block(source: str, target: str) -> Iterator[Rule]:
    yield from _both(f"{source}norm1", f"{target}layernorm_before")
    yield from _both(f"{source}norm2", f"{target}layernorm_after")
    yield from _both(f"{source}attn.w_msa.qkv", *(f"{target}attention.{one}_proj" for one in "qkv"), action="split")
    yield from _both(f"{source}attn.w_msa.proj", f"{target}attention.o_proj")
    table = "relative_position_bias_table"
    yield f"{source}attn.w_msa.{table}", "copy", (f"{target}attention.relative_position_bias.{table}",)
    yield f"{source}attn.w_msa.relative_position_index", "check", ()
    yield from _both(f"{source}ffn.layers.0.0", f"{target}mlp.fc1")
    yield from _both(f"{source}ffn.layers.1", f"{target}mlp.fc2")


def _pixel_decoder() -> Iterator[Rule]:
    for level in range(3):
        source, target = f"{PIXELS}input_convs.{level}.", f"{DECODER}input_projections.{level}."
        yield from _both(f"{source}conv", f"{target}0")
        yield from _both(f"{source}gn", f"{target}1")
    yield f"{PIXELS}level_encoding.weight", "copy", (f"{DECODER}level_embed",)
    for layer in range(6):
        source, target = f"{PIXELS}encoder.layers.{layer}.", f"{DECODER}encoder.layers.{layer}."
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            yield from _both(f"{source}self_attn.{part}", f"{target}self_attn.{part}")
        yield from _both(f"{source}norms.0", f"{target}self_attn_layer_norm")
        yield from _both(f"{source}norms.1", f"{target}final_layer_norm")
        yield from _feed_forward(source, target)
    for source, target in (("lateral_convs", "adapter_1"), ("output_convs", "layer_1")):
        yield f"{PIXELS}{source}.0.conv.weight", "copy", (f"{DECODER}{target}.0.weight",)
        yield from _both(f"{PIXELS}{source}.0.gn", f"{DECODER}{target}.1")
    yield from _both(f"{PIXELS}mask_feature", f"{DECODER}mask_projection")


def _query_layer(source: str, target: str) -> Iterator[Rule]:
    """Cross attention comes first and stays packed."""
    for end in ("weight", "bias"):
        yield f"{source}cross_attn.attn.in_proj_{end}", "copy", (f"{target}cross_attn.in_proj_{end}",)
        parts = tuple(f"{target}self_attn.{one}_proj.{end}" for one in "qkv")
        yield f"{source}self_attn.attn.in_proj_{end}", "split", parts
    for part in ("cross_attn", "self_attn"):
        yield from _both(f"{source}{part}.attn.out_proj", f"{target}{part}.out_proj")
    for place, part in enumerate(("cross_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm")):
        yield from _both(f"{source}norms.{place}", f"{target}{part}")
    yield from _feed_forward(source, target)


def _feed_forward(source: str, target: str) -> Iterator[Rule]:
    yield from _both(f"{source}ffn.layers.0.0", f"{target}fc1")
    yield from _both(f"{source}ffn.layers.1", f"{target}fc2")


def _both(source: str, *targets: str, action: str = "copy") -> Iterator[Rule]:
    for end in ("weight", "bias"):
        yield f"{source}.{end}", action, tuple(f"{target}.{end}" for target in targets)


def _thirds(value: Tensor) -> Sequence[Tensor]:
    """Query, key and value, one below the other."""
    if len(value) % 3:
        raise ValueError(f"has {len(value)} rows, which are no three equal parts")
    return value.chunk(3)


def _merged(value: Tensor) -> Sequence[Tensor]:
    """Channels of a 2 x 2 neighbourhood: mmdetection's 4 c + 2 row + col becomes (2 col + row) C + c."""
    if value.shape[-1] % 4:
        raise ValueError(f"has {value.shape[-1]} channels, which are no 2 x 2 neighbourhoods")
    order = torch.arange(value.shape[-1]).view(-1, 2, 2).permute(2, 1, 0).flatten()
    return [value[..., order].contiguous()]


def _checked(value: Tensor) -> Sequence[Tensor]:
    """The table of relative positions, which transformers computes itself."""
    place = torch.arange(WINDOW**2)
    rows, columns = (one[:, None] - one[None] + WINDOW - 1 for one in (place // WINDOW, place % WINDOW))
    if not torch.equal(value, (2 * WINDOW - 1) * rows + columns):
        raise ValueError("is not the table of relative positions in a window of 7 x 7")
    return []


ACTIONS: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
    "copy": lambda value: [value],
    "split": _thirds,
    "merge": _merged,
    "check": _checked,
}
# Names of mmdetection 2.x; all others are those of 3.x.
SECOND = (
    (re.compile(rf"({re.escape(PIXELS)}encoder\.layers\.\d+)\.attentions\.0\."), r"\1.self_attn."),
    (re.compile(rf"({re.escape(QUERIES)}layers\.\d+)\.attentions\.0\."), r"\1.cross_attn."),
    (re.compile(rf"({re.escape(QUERIES)}layers\.\d+)\.attentions\.1\."), r"\1.self_attn."),
    (re.compile(rf"((?:{re.escape(PIXELS)}encoder|{re.escape(QUERIES)[:-2]})\.layers\.\d+)\.ffns\.0\."), r"\1.ffn."),
)


def _renamed(key: str) -> str:
    for old, new in SECOND:
        key = old.sub(new, key)
    return key


def _require_same(what: str, wanted: set[str], found: set[str], path: Path | str) -> None:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    said = [f"{len(keys)} {word} ({keys[0]})" for word, keys in (("missing", missing), ("unexpected", extra)) if keys]
    if said:
        raise CheckpointError(f"{path} does not fit {what}: {', '.join(said)}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
