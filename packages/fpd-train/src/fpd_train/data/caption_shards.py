"""Shards of captions: what distils a text-conditional teacher. Images beside the captions are not read."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from fpd_core.conditioning import PromptCondition
from fpd_train.batch import Batch
from fpd_train.data.bad_samples import BadSample
from fpd_train.data.shards import Shards


class CaptionShards(Shards):
    """Each sample has a `.txt` caption."""

    name: Literal["caption_shards"] = "caption_shards"
    has_images: ClassVar[bool] = False
    members: ClassVar[tuple[tuple[str, ...], ...]] = (("txt",),)
    captions: Literal["txt", "parquet"] = Field(
        "txt",
        description="`parquet` takes them from the files that img2dataset left beside the shards; no tar is read.",
    )

    @property
    def from_parquet(self) -> bool:
        return self.captions == "parquet"

    def decode(self, members: Sequence[bytes]) -> str:
        return decoded_caption(members[0])

    def collate(self, samples: list[str]) -> Batch:
        return Batch(PromptCondition(tuple(samples)))


def decoded_caption(content: bytes) -> str:
    """Raises BadSample: not UTF-8, or blank."""
    try:
        caption = str(content, "utf-8").strip()
    except UnicodeDecodeError:
        raise BadSample("not UTF-8", "has no UTF-8 caption (.txt)") from None
    if not caption:
        raise BadSample("blank txt", "has an empty caption (.txt)")
    return caption
