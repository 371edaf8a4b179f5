"""One step on the meta device: every operation has a shape and a count of FLOPs, none is computed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

META = torch.device("meta")
_ATEN = torch.ops.aten


class Valueless(TorchDispatchMode):
    """Answers where a value is asked for that the meta device has not: numbers are 0, checks hold, masks are full."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args and isinstance(args[0], Tensor) and args[0].is_meta else None
        if first is None:
            return func(*args, **kwargs)
        if func is _ATEN._local_scalar_dense.default:
            return True if first.dtype == torch.bool else 0.0 if first.is_floating_point() else 0
        if func is _ATEN._to_copy.default and torch.device(kwargs.get("device") or META).type != "meta":
            return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if func is _ATEN.exponential_.default:  # the meta device refuses a generator
            return first
        if func is _ATEN.nonzero.default:
            return torch.empty(first.numel(), first.dim(), dtype=torch.long, device=META)
        if func is _ATEN._unique2.default:  # all differ
            count = first.numel()
            return (
                first.flatten(),
                first.new_empty(first.shape, dtype=torch.long),
                first.new_empty(count, dtype=torch.long),
            )
        if func is _ATEN.index.Tensor:
            return func(first, [place for one in args[1] for place in _places(one)])
        return func(*args, **kwargs)


def _places(index: Tensor | None) -> list[Tensor | None]:
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device=META)] * index.dim()


class _Untracked(nullcontext[None]):
    """In the place of torch's tracker of modules, whose hooks do not bear `autograd.grad`."""

    parents = frozenset({"Global"})


class Flops(FlopCounterMode):
    """FLOPs by how a card multiplies: "bfloat16", "tf32" (convolutions, cuDNN's default), "float32" and "float64".

    `autocast` stands in for torch's, which does not know the meta device. Backward has the share that forward had with
    a graph.
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker: Any = _Untracked()
        self._forward: Counter[str] = Counter()  # with a graph
        self._other: Counter[str] = Counter()
        self._backward: Counter[str] = Counter()
        self.is_backward = self._is_autocast = False

    @contextmanager
    def autocast(self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True) -> Iterator[None]:
        """While it lasts, what is multiplied is bfloat16."""
        before, self._is_autocast = self._is_autocast, enabled
        try:
            yield
        finally:
            self._is_autocast = before

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        before = self.get_total_flops()
        result = super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]
        if found := self.get_total_flops() - before:
            full = "tf32" if "conv" in str(func_packet) else "float32"
            types = {one.dtype for one in args if isinstance(one, Tensor)}
            half = "half " if self._is_autocast or torch.bfloat16 in types else ""
            kind = "float64" if torch.float64 in types else half + full
            counter = self._backward if self.is_backward else self._forward if torch.is_grad_enabled() else self._other
            counter[kind.removeprefix("half ") if self.is_backward else kind] += found
        return result

    def by_kind(self) -> dict[str, int]:
        """All that was counted."""
        found = {"bfloat16": 0, "float64": self._forward["float64"] + self._other["float64"]}
        for full in ("tf32", "float32"):
            half, rest, back = self._forward[f"half {full}"], self._forward[full], self._backward[full]
            share = round(back * half / (half + rest)) if half + rest else 0
            found["bfloat16"] += half + self._other[f"half {full}"] + share
            found[full] = rest + self._other[full] + back - share
        found["float64"] += self._backward["float64"]
        return found


class Gathered:
    """Stands for the other ranks: collectives of the loss do nothing but count their bytes."""

    def __init__(self, world: int) -> None:
        self.world, self.bytes = world, 0

    @contextmanager
    def stand(self) -> Iterator[None]:
        def gather(whole: list[Tensor], part: Tensor, **_: Any) -> None:
            self.bytes += sum(one.numel() * one.element_size() for one in whole)

        def reduce(tensor: Tensor, *_: Any, **__: Any) -> None:
            self.bytes += tensor.numel() * tensor.element_size()

        with patch.multiple(
            dist, get_world_size=lambda *_: self.world, get_rank=lambda *_: 0, all_gather=gather, all_reduce=reduce
        ):
            yield


_attention = F.scaled_dot_product_attention


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **more: Any,
) -> Tensor:
    """Attention that keeps no [L, L] matrix, as on a card; the meta device would choose the one that does."""
    if attn_mask is not None or dropout_p or query.dim() != 4 or set(more) - {"scale"}:
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, **more)
    result: Tensor = _ATEN._scaled_dot_product_efficient_attention(
        query, key, value, None, torch.is_grad_enabled(), 0.0, is_causal, scale=more.get("scale")
    )[0]
    return result


@contextmanager
def valueless() -> Iterator[None]:
    """For as long as it lasts, networks on the meta device run as they would elsewhere."""
    with patch.object(F, "scaled_dot_product_attention", _fused), Valueless():
        yield
