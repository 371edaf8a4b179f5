"""Streams at scale: one order for any number of ranks, each reading its own bytes; bad samples counted by kind."""

import http.server
import json
import logging
import shutil
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shard_writing import img2dataset_folder, jpeg, members, record, write_tar

from fpd_core.config import ConfigError
from fpd_train.data import local, open_stream
from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.filters import Filter
from fpd_train.data.image_shards import ImageShards
from fpd_train.data.remote import list_remote
from fpd_train.data.reporting import same_data
from fpd_train.data.uniform_labels import UniformLabels
from fpd_train.errors import DataError


@pytest.fixture
def folder(tmp_path):
    img2dataset_folder(tmp_path / "shards")
    return tmp_path / "shards"


def captions(source, *, world=1, rank=0, batch=6, position=0, seed=3):
    stream = source.stream(batch, seed=seed, rank=rank, world=world, position=position)
    while True:
        yield list(next(stream).condition.prompts)


def global_batches(source, worlds, together=12, **options):
    """Batches of all ranks, put together as the global order has them; `worlds` is [(ranks, steps), ...]."""
    found, position = [], 0
    for world, steps in worlds:
        ranks = [
            captions(source, world=world, rank=rank, batch=together // world, position=position, **options)
            for rank in range(world)
        ]
        for _ in range(steps):
            parts = [next(rank) for rank in ranks]
            found.append([one for row in zip(*parts, strict=True) for one in row])
            position += together
    return found


# --- order ---


def reference_order(counts, seed, shuffle_shards, length):
    """The order as `fpd-train` has had it since its first version, written out sample by sample."""
    found, epoch = [], 0
    while len(found) < length:
        random = np.random.default_rng([seed, epoch])
        names = list(random.permutation(list(counts)))
        for first in range(0, len(names), shuffle_shards):
            group = names[first : first + shuffle_shards]
            rows = [(name, row) for name in group for row in range(counts[name])]
            found += [rows[place] for place in random.permutation(len(rows))]
        epoch += 1
    return found[:length]


def test_the_order_of_one_rank_is_what_it_was(folder):
    counts = {f"{shard:05d}.tar": 20 for shard in range(3)}
    inside = {}
    for name in counts:
        with tarfile.open(folder / name) as tar:
            texts = [tar.extractfile(one).read().decode() for one in tar if one.name.endswith(".txt")]
        inside |= {(name, row): text for row, text in enumerate(texts)}
    found = global_batches(CaptionShards(folder=folder, shuffle_shards=2), [(1, 15)])
    wanted = [inside[place] for place in reference_order(counts, 3, 2, 180)]
    assert [one for batch in found for one in batch] == wanted


@pytest.mark.parametrize("run_length", [1, 7])
def test_any_number_of_ranks_continues_the_unbroken_order(tmp_path, run_length):
    img2dataset_folder(tmp_path / "s", change=lambda n: {"caption": "  " if n % 17 == 0 else f"caption {n}"})
    source = CaptionShards(folder=tmp_path / "s", run_length=run_length, shuffle_shards=2)
    unbroken = global_batches(source, [(1, 14)])
    assert global_batches(source, [(2, 4), (4, 5), (3, 5)]) == unbroken
    assert not any(caption == "  " for batch in unbroken for caption in batch)


def test_a_run_with_another_batch_goes_on_with_the_very_next_sample(folder):
    """The trainer's streams, two drafts of each condition: 60 samples in steps of 10, 12 and 14; none comes twice."""
    from fpd_train.trainer import _stream  # with DeepSpeed: seconds

    found = []
    for world, size, steps in ((2, 5, 1), (3, 4, 3), (7, 2, 1)):
        position, ranks = len(found), []
        for rank in range(world):
            config = SimpleNamespace(data=CaptionShards(folder=folder), micro_batch=2 * size, seed=3)
            method = SimpleNamespace(drafts_per_condition=2)
            run = SimpleNamespace(config=config, method=method, rank=rank, world=world, images_before=2 * position)
            ranks.append(_stream(run))
        ranks = ranks[position % world :] + ranks[: position % world]  # sample n is of rank n mod world
        for _ in range(steps):
            parts = [next(rank).condition.prompts for rank in ranks]
            found += [one for row in zip(*parts, strict=True) for one in row]
    assert len(set(found)) == 60
    assert [found] == global_batches(CaptionShards(folder=folder), [(1, 1)], together=60)


def test_a_source_without_shards_goes_on_with_the_next_whole_batch():
    source, place = UniformLabels(num_classes=1000), {"batch_size": 4, "seed": 0, "rank": 1, "world": 3}
    for position, start in ((0, 0), (11, 1), (12, 1), (13, 2)):
        found, wanted = open_stream(source, position=position, **place), source.open(start=start, **place)
        assert torch.equal(next(found).condition.labels, next(wanted).condition.labels)


def test_every_good_sample_comes_once_an_epoch_in_runs_of_neighbours(folder):
    source = CaptionShards(folder=folder, run_length=5)
    flat = [one for batch in global_batches(source, [(1, 5)]) for one in batch]
    assert len(set(flat)) == 60
    inside = [number for shard in range(3) for number in np.random.default_rng(shard).permutation(20) + shard * 20]
    places = {f"caption {number} – naïve": place for place, number in enumerate(inside)}
    runs = [[places[one] for one in flat[i : i + 5]] for i in range(0, 60, 5)]
    assert all(run == list(range(run[0], run[0] + 5)) and run[0] % 5 == 0 for run in runs)
    assert [run[0] for run in runs] != sorted(run[0] for run in runs)


# --- bytes ---


def bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])


def test_each_rank_reads_its_own_share_of_bytes(tmp_path):
    """By the kernel's count; sizes differ, so shares are only nearly equal."""
    folder = tmp_path / "s"
    img2dataset_folder(folder, shards=2, per_shard=400, change=lambda n: {"caption": f"caption {n:06d} " + "x" * 100})
    source = CaptionShards(folder=folder, prefetch=1)
    next(captions(source))  # makes the index
    read = {}
    for world in (1, 2, 4):
        for rank in range(world):
            before = bytes_read()
            stream = captions(source, world=world, rank=rank, batch=800 // world // 20)
            for _ in range(19):  # one more is read ahead
                next(stream)
            read[world, rank] = bytes_read() - before
            del stream
    assert read[1, 0] < 1.2 * 800 * 115
    assert all(read[world, rank] < 1.15 / world * read[1, 0] for world, rank in read)


# --- bad samples ---


def damaged_folder(tmp_path):
    """100 samples in five shards, one of each kind bad, and a tar that lost its last three."""
    folder = tmp_path / "bad"
    img2dataset_folder(folder, shards=5, per_shard=20, parquet=False)
    wrong = {
        3: lambda key: members(key, None, record(3)),
        7: lambda key: members(key, b"\xff\xfe caption", record(7)),
        11: lambda key: [(f"{key}.v2.{ending}", b"x") for ending in ("jpg", "json", "txt")],
        15: lambda key: [(f"{key}.jpg", jpeg(15))],
    }
    content = []
    for number in range(20):
        key = f"00001{number:03d}"
        content += wrong[number](key) if number in wrong else members(key, f"one {number}", record(number))
    write_tar(folder / "00001.tar", content)
    path = folder / "00004.tar"
    with tarfile.open(path) as tar:
        cut = [one for one in tar if one.name.endswith(".json")][17].offset_data + 10
    path.write_bytes(path.read_bytes()[:cut])
    return folder


def test_bad_samples_are_counted_by_kind_and_logged_with_shard_and_key(tmp_path, caplog):
    source = CaptionShards(folder=damaged_folder(tmp_path))
    with caplog.at_level(logging.WARNING):
        stream = source.stream(93, seed=0, rank=0, world=1, position=0)
        drawn = list(next(stream).condition.prompts)
    assert stream.tally.left_out == {"truncated tar": 3, "empty txt": 1, "dot in the key": 1, "missing txt": 1}
    assert set(stream.tally.seen.values()) == {"not UTF-8"}
    assert stream.tally.total == 100
    assert len(drawn) == 93
    assert len(set(drawn)) == 93 or len(set(drawn)) == 92
    log = caplog.text
    for key, kind in (("00001003", "empty txt"), ("00001011.v2", "dot in the key"), ("00001015", "missing txt")):
        assert f"sample {key} of {source.folder}/00001.tar: {kind}" in log
    assert f"sample 00001007 of {source.folder}/00001.tar has no UTF-8 caption" in log
    assert f"{source.folder}/00004.tar: truncated tar, the tar ends" in log
    first, second = stream.tally.report()
    assert "6 of 100 samples left out (3 truncated tar, 1 dot in the key, 1 empty txt, 1 missing txt)" in first
    assert "1 samples bad on reading" in second


def test_a_replacement_is_the_draw_of_seed_epoch_n_and_attempt(tmp_path):
    flat = img2dataset_folder(tmp_path / "s", change=lambda n: {"caption": " " if n % 6 == 0 else f"caption {n}"})
    wanted, attempts = [], []
    for n, (name, row) in enumerate(reference_order({f"{shard:05d}.tar": 20 for shard in range(3)}, 3, 4, 120)):
        caption, attempt = flat[int(name[:5]) * 20 + row], 0
        while caption == " ":
            caption = flat[np.random.default_rng([3, n // 60, n, attempt]).integers(60)]
            attempt += 1
        wanted.append(caption)
        attempts.append(attempt)
    assert max(attempts) > 1
    source = CaptionShards(folder=tmp_path / "s", max_bad_share=0.5)
    assert [one for batch in global_batches(source, [(1, 10)]) for one in batch] == wanted
    assert [one for batch in global_batches(source, [(2, 4), (3, 6)]) for one in batch] == wanted


def test_a_corrupt_image_is_replaced_by_a_good_one(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    content = []
    for number in range(30):
        image = jpeg(number)[: 300 if number == 9 else None]
        content += [(f"{number:04d}.jpg", image), (f"{number:04d}.cls", b"1" if number == 9 else b"0")]
    write_tar(folder / "0.tar", content)
    source = ImageShards(folder=folder, num_classes=2, image_size=16)
    stream = source.stream(30, seed=0, rank=0, world=1, position=0)
    batch = next(stream)
    assert batch.condition.labels.tolist() == [0] * 30
    assert list(stream.tally.seen.values()) == ["undecodable image"]


def test_threads_that_come_at_once_read_one_open_file(tmp_path, monkeypatch):
    """A second one would take the first one's place, whose descriptor is closed under its reader."""
    path, opened, real = tmp_path / "a", [], local.open_regular
    path.write_bytes(bytes(range(8)))

    def slow(*given, **options):
        opened.append(real(*given, **options))
        time.sleep(0.05)
        return opened[-1]

    monkeypatch.setattr(local, "open_regular", slow)
    file = local.Local(str(path))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda at: file.ranges([at], [1])[0], range(8))) == [bytes([at]) for at in range(8)]
    assert len(opened) == 1


@pytest.mark.parametrize(("share", "stops"), [(0.05, True), (0.07, False)])
def test_too_many_bad_samples_end_the_run(tmp_path, share, stops):
    source = CaptionShards(folder=damaged_folder(tmp_path), max_bad_share=share)
    if stops:
        with pytest.raises(DataError, match=r"has 6 bad samples of 100 \(3 truncated tar.*data\.max_bad_share 0\.05"):
            next(captions(source))
    else:
        assert next(captions(source))


@pytest.mark.parametrize("where", [700, 2000, 40_000])
def test_a_tar_cut_anywhere_gives_what_came_before(tmp_path, where):
    folder = tmp_path / "s"
    img2dataset_folder(folder, shards=1, per_shard=20)
    path = folder / "00000.tar"
    ends = []
    with tarfile.open(path) as tar:
        ends = [one.offset_data + one.size for one in tar if one.name.endswith(".txt")]
    path.write_bytes(path.read_bytes()[:where])
    whole = sum(end <= where for end in ends)
    source = CaptionShards(folder=folder, max_bad_share=0.999)
    if whole == 0:
        with pytest.raises(DataError, match="has 20 bad samples of 20"):
            next(captions(source, batch=1))
        return
    stream = source.stream(1, seed=0, rank=0, world=1, position=0)
    assert stream.tally.left_out == {"truncated tar": 20 - whole}


# --- the index ---


def test_the_index_is_kept_outside_the_data_and_made_again_when_a_shard_changes(folder, tmp_path):
    before = sorted(path.name for path in folder.iterdir())
    source = CaptionShards(folder=folder, index_folder=tmp_path / "index")
    first = next(captions(source))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}
    assert sorted(path.name for path in folder.iterdir()) == before
    assert len(kept) == 3
    assert next(captions(source)) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    damaged = next(iter(kept))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert next(captions(source)) == first
    write_tar(folder / "00001.tar", members("00001000", "all new", record(0)))
    (folder / "00001_stats.json").unlink()
    stream = source.stream(41, seed=0, rank=0, world=1, position=0)
    assert "all new" in next(stream).condition.prompts


def test_a_resumed_run_wants_the_shards_it_began_with(folder, tmp_path):
    def opened():
        return CaptionShards(folder=folder).stream(4, seed=0, rank=0, world=1, position=0)

    same_data(opened(), tmp_path, 0)
    same_data(opened(), tmp_path, 7)
    shutil.copy(folder / "00000.tar", folder / "00009.tar")
    with pytest.raises(ConfigError, match=r"no longer holds the samples that .* began with"):
        same_data(opened(), tmp_path, 7)


# --- filters and parquet ---

FILTERS = [
    {"column": "aesthetic", "min": 1.5},
    {"column": "pwatermark", "max": 0.6},
    {"column": "caption_length", "min": 11, "max": 40},
    {"column": "width", "min": 220},
]


@pytest.mark.parametrize("parquet", [True, False])
def test_filters_keep_what_json_or_parquet_say(tmp_path, parquet):
    folder = tmp_path / "s"
    img2dataset_folder(folder, parquet=parquet, change=lambda n: {"caption": "c" * (n % 30 + 1) + f" {n}"})
    kept = []
    for number in range(60):
        about = record(number, caption="c" * (number % 30 + 1) + f" {number}")
        good = about["aesthetic"] >= 1.5 and about["pwatermark"] <= 0.6 and about["width"] >= 220
        if good and 11 <= len(about["caption"]) <= 40:
            kept.append(about["caption"])
    assert 5 < len(kept) < 40
    source = CaptionShards(folder=folder, filters=FILTERS)
    stream = source.stream(len(kept), seed=0, rank=0, world=1, position=0)
    assert sorted(next(stream).condition.prompts) == sorted(kept)
    assert stream.tally.filtered == 60 - len(kept)
    assert f"{60 - len(kept)} filtered" in stream.tally.report()[0]


def test_a_filter_needs_a_bound():
    with pytest.raises(ValueError, match=r"neither min nor max"):
        Filter(column="width")
    with pytest.raises(ValueError, match=r"min 3 above max 2"):
        Filter(column="width", min=3, max=2)
    assert not Filter(column="width", min=3).keeps({"width": None})
    assert not Filter(column="width", min=3).keeps({})


def test_captions_from_parquet_are_those_of_the_tars_which_stay_unread(tmp_path):
    folder = tmp_path / "s"
    img2dataset_folder(folder, change=lambda n: {"caption": None if n == 5 else f"caption {n} – naïve"})
    wanted = global_batches(CaptionShards(folder=folder), [(1, 9)])
    for path in folder.glob("*.tar"):
        path.write_bytes(b"")
    source = CaptionShards(folder=folder, captions="parquet")
    assert global_batches(source, [(1, 9)]) == wanted
    stream = source.stream(1, seed=0, rank=0, world=1, position=0)
    assert stream.tally.left_out == {"empty txt": 1}


# --- where shards lie ---


def test_folders_patterns_and_lists_name_the_same_shards(tmp_path):
    folder, other = tmp_path / "s", tmp_path / "t"
    img2dataset_folder(folder)
    img2dataset_folder(other, shards=1, change=lambda n: {"caption": f"other {n}"})
    whole = global_batches(CaptionShards(folder=folder), [(1, 4)])
    (tmp_path / "list.txt").write_text("# shards\ns/00000.tar\n" + f"{folder}/{{00001..00002}}.tar\n")
    for pattern in ("s/{00000..00002}.tar", "s/*.tar", "s/0000[0-2].tar", "list.txt", "s/00000.tar::s/0000[12].tar"):
        assert (
            global_batches(CaptionShards(folder=f"{tmp_path}/{pattern}".replace("::", f"::{tmp_path}/")), [(1, 4)])
            == whole
        )
    joined = CaptionShards(folder=f"{folder}::{other}")
    drawn = {one for batch in global_batches(joined, [(1, 7)]) for one in batch}
    assert {one for one in drawn if one.startswith("other")} == {f"other {n}" for n in range(20)}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("s/{00000..00004}.tar", r"00003\.tar does not exist"),
        ("s/*.zip", "matches no shard"),
        ("s/{0.tar", "is no pattern"),
        ("s::s", "twice"),
        ("empty", r"holds no \.tar"),
        ("list.txt", "never a command"),
    ],
)
def test_patterns_that_name_nothing(tmp_path, monkeypatch, pattern, message):
    monkeypatch.chdir(tmp_path)
    img2dataset_folder(tmp_path / "s")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("s/00000.tar\npipe:touch fpd-was-here\n")
    with pytest.raises(DataError, match=message):
        next(captions(CaptionShards(folder=pattern, allow=["pipe"])))
    assert not (tmp_path / "fpd-was-here").exists()


# --- web servers ---


class Ranges(http.server.BaseHTTPRequestHandler):
    """A server that answers range requests, counts the bytes it sends and fails as often as it is told."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.server.folder / self.path.lstrip("/")
        if self.server.failures and self.path.endswith(".tar"):
            self.server.failures -= 1
            return self.send_error(503)
        if not path.is_file():
            return self.send_error(404)
        content, status = path.read_bytes(), 200
        size = len(content)
        self.server.asked.append((self.path, self.headers.get("Range")))
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            content, status = content[int(first) : int(last) + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Last-Modified", "Fri, 27 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(content)
            self.server.sent += len(content)


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr("fpd_train.data.storage.FIRST_WAIT_SECONDS", 0.001)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.folder, server.sent, server.failures, server.asked = folder, 0, 0, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_a_server_is_read_by_ranges_in_the_same_order(server, folder):
    source = CaptionShards(folder=f"{server.url}/{{00000..00002}}.tar", allow=["http"], prefetch=1)
    wanted = global_batches(CaptionShards(folder=folder), [(1, 9)])
    assert global_batches(source, [(1, 9)]) == wanted
    server.sent = 0
    assert global_batches(source, [(2, 4)]) == wanted[:4]
    assert server.sent < 3000  # 48 captions of 18 bytes and what is read ahead, of 130 kB


def test_neighbours_may_be_read_with_one_request(server):
    def requests(**options):
        source = CaptionShards(folder=f"{server.url}/00000.tar", allow=["http"], prefetch=1, threads=1, **options)
        stream = captions(source, batch=20)
        next(stream)
        del server.asked[:]
        drawn = next(captions(source, batch=20))
        return sum(asked is not None for _, asked in server.asked), drawn

    apart, drawn = requests()
    joined, again = requests(coalesce_bytes=2**20)
    assert apart >= 20 > 4 >= joined
    assert drawn == again


def test_captions_by_parquet_come_from_a_server_without_its_tars(server, folder):
    source = CaptionShards(folder=f"{server.url}/{{00000..00002}}.tar", allow=["http"], captions="parquet")
    assert global_batches(source, [(1, 9)]) == global_batches(CaptionShards(folder=folder), [(1, 9)])
    assert not any(path.endswith(".tar") for path, _ in server.asked)


def test_a_server_that_fails_is_tried_again_and_then_named(server):
    source = CaptionShards(folder=f"{server.url}/00000.tar", allow=["http"], retries=2)
    server.failures = 2
    assert len(next(captions(source))) == 6
    server.failures = 10**6
    with pytest.raises(DataError, match=r"00000\.tar cannot be read \(3 tries\): .*503") as caught:
        next(captions(source))
    assert "\n" not in str(caught.value)


# --- lanes ---


def piped(folder, **options):
    return CaptionShards(folder=f"pipe:cat {folder}/{{00000..00003}}.tar", allow=["pipe"], **options)


def test_lanes_give_one_order_to_every_world_that_divides_them(tmp_path):
    folder = tmp_path / "s"
    img2dataset_folder(folder, shards=4, per_shard=10, change=lambda n: {"caption": " " if n == 13 else f"caption {n}"})
    whole = global_batches(piped(folder), [(1, 9)])
    assert global_batches(piped(folder), [(2, 3), (4, 3), (1, 3)]) == whole
    assert {one for batch in whole[:4] for one in batch} == {f"caption {n}" for n in range(40) if n != 13}
    with pytest.raises(DataError, match=r"3 ranks cannot share 4 lanes; set data\.lanes to a multiple of 3"):
        next(captions(piped(folder), world=3))
    assert global_batches(piped(folder, lanes=3), [(3, 3)]) == global_batches(piped(folder, lanes=3), [(1, 3)])


def test_a_rank_runs_only_the_commands_of_its_lanes(tmp_path):
    folder = tmp_path / "s"
    img2dataset_folder(folder, shards=4, per_shard=10)
    command = f"pipe:touch {tmp_path}/ran-{{00000..00003}}; cat {folder}/00000.tar"
    stream = captions(CaptionShards(folder=command, allow=["pipe"], prefetch=1), world=2, rank=1, batch=2)
    for _ in range(5):
        next(stream)
    assert sorted(path.name for path in tmp_path.glob("ran-*")) == ["ran-00001", "ran-00003"]


def test_a_command_that_fails_is_tried_again_from_where_it_broke(tmp_path, monkeypatch):
    monkeypatch.setattr("fpd_train.data.storage.FIRST_WAIT_SECONDS", 0.001)
    folder = tmp_path / "s"
    img2dataset_folder(folder, shards=1, per_shard=10)
    whole = next(captions(CaptionShards(folder=f"pipe:cat {folder}/00000.tar", allow=["pipe"]), batch=10))
    once = f"(touch {tmp_path}/again; head -c 9000 {folder}/00000.tar; false)"
    flaky = f"pipe:test -e {tmp_path}/again && cat {folder}/00000.tar || {once}"
    assert next(captions(CaptionShards(folder=flaky, allow=["pipe"]), batch=10)) == whole
    broken = CaptionShards(folder=f"pipe:head -c 9000 {folder}/00000.tar; false", allow=["pipe"], retries=2)
    with pytest.raises(DataError, match=r"cannot be read \(3 tries\): the command ended with status 1"):
        next(captions(broken, batch=10))


def test_a_cut_off_pipe_is_a_truncated_tar(tmp_path):
    folder = tmp_path / "s"
    img2dataset_folder(folder, shards=1, per_shard=10)
    with tarfile.open(folder / "00000.tar") as tar:
        cut = [one for one in tar if one.name.endswith(".jpg")][4].offset_data + 10
    source = CaptionShards(folder=f"pipe:head -c {cut} {folder}/00000.tar", allow=["pipe"])
    stream = source.stream(4, seed=0, rank=0, world=1, position=0)
    assert len(set(next(stream).condition.prompts)) == 4
    next(stream)
    assert set(stream.tally.seen.values()) == {"truncated tar"}


# --- a whole run ---


def test_two_ranks_index_together_and_say_what_is_bad(launch, tmp_path, write_images):
    write_images(tmp_path / "images", bad=2)
    data = {"name": "image_shards", "folder": str(tmp_path / "images"), "num_classes": 3, "image_size": 32}
    code, output = launch(ranks=2, data=data, steps=2, sample_every=100)
    assert code == 0, output
    assert "2 of 66 samples left out (2 missing cls)" in output
    assert json.loads((tmp_path / "run/data.json").read_text())["index"]


@pytest.fixture
def write_images():
    def write(folder, bad):
        folder.mkdir()
        for shard in range(2):
            content = []
            for number in range(33):
                content.append((f"{shard}{number:03d}.jpg", jpeg(number, 32)))
                if number >= bad // 2:
                    content.append((f"{shard}{number:03d}.cls", b"1"))
            write_tar(folder / f"{shard}.tar", content)

    return write


def test_a_bucket_is_listed_in_order(folder):
    """Obstore lists a local folder as it lists a bucket; no config can name one so."""
    assert list_remote(f"file://{folder}/") == [f"file://{path}" for path in sorted(folder.iterdir())]
