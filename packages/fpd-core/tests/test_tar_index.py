"""Where the files of a tar lie: Python's own tarfile says so too, in every format and for every odd name."""

import gzip
import io
import random
import tarfile

import pytest

from fpd_core.untrusted.tar_index import TarDamage, locate_members, name_before

NAMES = [
    "000.jpg",
    "./x/000.v2.jpg",
    "a" * 99 + ".txt",
    "b" * 150 + ".txt",
    "c/" * 90 + "d.txt",
    "naïve – 漢字.txt",
    "e",
]


def tar(names, kind, sizes=(0, 1, 511, 512, 513, 5000), extra=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = sizes[number % len(sizes)], 1700000000.5 if kind == tarfile.PAX_FORMAT else 17
            archive.addfile(info, io.BytesIO(bytes([65 + number]) * info.size))
            if extra:
                archive.addfile(extra)
    return buffer.getvalue()


def reader(content):
    last = 0

    def read_at(position, size):
        nonlocal last
        assert position >= last
        last = position
        return content[position : position + size]

    return read_at


def oracle(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [(one.name, one.offset_data, one.size) for one in archive if one.isreg()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_places_are_those_of_tarfile(kind):
    names = [n for n in NAMES if kind != tarfile.USTAR_FORMAT or (n.isascii() and (len(n) <= 100 or "/" in n))]
    content = tar(names, kind)
    found = [tuple(one) for one in locate_members(reader(content))]
    assert found == oracle(content)
    assert len(found) == len(names)
    short = found[0]
    assert name_before(lambda at, size: content[at : at + size], short[1]) == short[0]


@pytest.mark.parametrize(
    "type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_what_is_no_file_is_passed_over(type_):
    other = tarfile.TarInfo("other")
    other.type, other.linkname = type_, "/etc/passwd"
    content = tar(NAMES, tarfile.PAX_FORMAT, extra=other)
    assert [tuple(one) for one in locate_members(reader(content))] == oracle(content)


def test_sizes_of_eight_gigabytes_and_more_are_read():
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("large")
        info.size = 9 * 2**30 + 5
        header = info.tobuf(kind)
        members = locate_members(lambda at, size, header=header: header[at : at + size])
        assert next(members) == ("large", len(header), 9 * 2**30 + 5)
        with pytest.raises(TarDamage, match="without its end mark"):
            next(members)


def test_a_break_is_named_where_it_is():
    content = tar(NAMES, tarfile.GNU_FORMAT)
    whole = oracle(content)
    first = whole[1][1] + 512  # behind the second file, of one byte
    for broken, message in (
        (content[: first + 100], f"ends at byte {first + 100} without its end mark"),
        (content[:first] + b"x" + content[first + 1 :], f"no valid header at byte {first}"),
    ):
        found = []
        with pytest.raises(TarDamage, match=message):
            found.extend(map(tuple, locate_members(reader(broken))))
        assert found == whole[:2]


def test_a_sparse_file_is_refused():
    info = tarfile.TarInfo("sparse")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(TarDamage, match="sparse file at byte 0"):
        list(locate_members(reader(info.tobuf() + bytes(1024))))


def test_garbage_and_gzip_are_no_tar():
    for content in (b"x" * 2000, gzip.compress(tar(NAMES, tarfile.PAX_FORMAT))):
        with pytest.raises(TarDamage, match=r"no valid header at byte 0|ends at byte"):
            list(locate_members(reader(content)))
    with pytest.raises(TarDamage, match="ends at byte 0"):
        list(locate_members(reader(b"")))


@pytest.mark.fuzz
def test_damaged_tars_give_members_or_one_sentence(cases, damaged):
    rng, content = random.Random(0), tar(NAMES, tarfile.PAX_FORMAT)
    messages = []
    for _ in range(cases(400)):
        try:
            list(locate_members(reader(damaged(content, rng))))
        except TarDamage as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
