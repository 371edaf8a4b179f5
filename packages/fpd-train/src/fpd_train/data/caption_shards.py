"""Shards of captions: what distils a text-conditional teacher. Images beside the captions are not read."""

from typing import Any, ClassVar, Literal

from fpd_core.conditioning import PromptCondition
from fpd_train.batch import Batch
from fpd_train.data.shards import Shards, place
from fpd_train.errors import DataError


class CaptionShards(Shards):
    """Each sample has a `.txt` caption."""

    name: Literal["caption_shards"] = "caption_shards"
    has_images: ClassVar[bool] = False

    def batch(self, samples: list[dict[str, Any]]) -> Batch:
        return Batch(PromptCondition(tuple(self._caption(sample) for sample in samples)))

    def _caption(self, sample: dict[str, Any]) -> str:
        try:
            caption = str(sample["txt"], "utf-8").strip()
        except (KeyError, UnicodeDecodeError):
            raise DataError(f"{place(sample)} has no UTF-8 caption (.txt)") from None
        if not caption:
            raise DataError(f"{place(sample)} has an empty caption (.txt)")
        return caption
