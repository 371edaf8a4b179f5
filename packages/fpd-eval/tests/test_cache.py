"""The cache answers only what was stored, whole and for the same inputs."""

import pytest
import torch

from fpd_core.hashing import hash_tensors
from fpd_eval.runtime.cache import hash_json


def test_tensors_come_back_exactly(cache):
    stored = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    cache.put_tensors("key", stored)
    found = cache.get_tensors("key")
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)


def test_absent_keys_are_none_without_warning(cache, recwarn):
    assert cache.get_tensors("nothing") is None
    assert cache.get_json("nothing") is None
    assert not recwarn


@pytest.mark.parametrize("damage", ["truncated", "changed value", "empty"])
def test_damaged_tensor_files_are_named_and_absent(cache, damage):
    cache.put_tensors("key", {"a": torch.zeros(64)})
    path = cache.folder / "key.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"truncated": content[:-7], "changed value": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"key\.safetensors is damaged"):
        assert cache.get_tensors("key") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"sha256": "0", "value": {"fd": 1.0}}'])
def test_damaged_json_files_are_named_and_absent(cache, text):
    cache.put_json("key", {"fd": 1.0})
    assert cache.get_json("key") == {"fd": 1.0}
    (cache.folder / "key.json").write_text(text)
    with pytest.warns(UserWarning, match=r"key\.json is damaged"):
        assert cache.get_json("key") is None


def test_an_interrupted_write_leaves_the_old_file(cache, monkeypatch):
    cache.put_json("key", 1)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cache.put_json("key", 2)
    assert cache.get_json("key") == 1


def test_hashes_depend_on_content_and_not_on_order():
    a, b = torch.arange(6.0), torch.ones(2)
    assert hash_tensors({"a": a, "b": b}) == hash_tensors({"b": b, "a": a})
    others = [{"a": a + 1e-6, "b": b}, {"a": a.view(2, 3), "b": b}, {"c": a, "b": b}, {"a": a.double(), "b": b}]
    assert len({hash_tensors(tensors) for tensors in ({"a": a, "b": b}, *others)}) == 5
    assert hash_json({"x": 1, "y": 2}) == hash_json({"y": 2, "x": 1})
    assert hash_json([1, 2]) != hash_json([2, 1])


def test_keys_depend_on_the_code_version(cache, monkeypatch):
    before = cache.key("features", part=1)
    monkeypatch.setattr("fpd_eval.runtime.cache.CODE_VERSION", 999)
    assert cache.key("features", part=1) != before
