"""Bytes of an object in a bucket or on a web server, by range requests; obstore does them."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from fpd_train.data.local import bounded
from fpd_train.errors import DataError

_BLOCK = 4 * 2**20  # bytes of one request of a walk
_STREAM = 2**20


class Remote:
    """An object behind `http(s)://`, `s3://` or `gs://`; credentials come from where their own tools look for them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder, _, self._name = url.rpartition("/")

    def stamp(self) -> tuple[int, str]:
        meta = _obstore().head(_bucket(self._folder), self._name)
        return int(meta["size"]), str(meta.get("e_tag") or meta["last_modified"])

    def ranges(self, starts: Sequence[int], lengths: Sequence[int], coalesce: int = 0) -> list[bytes]:
        if not starts:
            return []
        found = _obstore().get_ranges(
            _bucket(self._folder), self._name, starts=starts, lengths=lengths, coalesce=coalesce
        )
        return [bytes(piece) for piece in found]

    def walked(self) -> Callable[[int, int], bytes]:
        size, block, base = self.stamp()[0], b"", 0

        def read_at(position: int, length: int) -> bytes:
            nonlocal block, base
            stop = min(position + length, size)
            if position >= size:
                return b""
            if not (base <= position and stop <= base + len(block)):
                base = position
                (block,) = self.ranges([position], [min(max(length, _BLOCK), size - position)])
            return block[position - base : stop - base]

        return read_at

    def whole(self, limit: int, *, name: str) -> bytes | None:
        try:
            found = _obstore().get(_bucket(self._folder), self._name)
        except FileNotFoundError:
            return None
        content = b""
        for piece in found.stream(min_chunk_size=_STREAM):
            content += bytes(piece)
            if len(content) > limit:
                break
        return bounded(content, limit, name, self._url)

    def stream(self) -> Any:
        """Its bytes in pieces, from the first on."""
        return _obstore().get(_bucket(self._folder), self._name).stream(min_chunk_size=_STREAM)


def list_remote(prefix: str) -> list[str]:
    """URLs, in order, of the objects whose URL begins with `prefix`, which ends in a folder of a bucket."""
    folder = prefix.rpartition("/")[0]
    found = _obstore().list(_bucket(folder)).collect()
    inside = folder.split("://", 1)[1].partition("/")[2]
    return sorted(f"{folder}/{meta['path'].removeprefix(inside).lstrip('/')}" for meta in found)


@lru_cache(maxsize=64)
def _bucket(folder: str) -> Any:
    from obstore.store import from_url

    plain: Any = {"allow_http": folder.startswith("http:")}
    never: Any = {"max_retries": 0}  # `retried` does that
    return from_url(folder, client_options=plain, retry_config=never)


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise DataError("URLs of shards need the package obstore: pip install 'fpd-train[cloud]'") from None
    return obstore
