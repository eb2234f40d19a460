"""Tests that archives yield their files bit for bit, and that hostile archives are rejected."""

import io
import os
import shutil
import stat
import sys
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from packed import (
    DEVICE,
    HARD_LINK,
    LINK,
    PIPE,
    overlapping_zip,
    rar_of,
    tar_entry,
    tar_of,
    written,
    zip_of,
    zip_with_mode,
)

from data_prep.archives import members as members_module
from data_prep.archives import rar, read_archive, unpack, unpacked_path
from data_prep.archives import zip as zip_module
from data_prep.archives.members import ArchiveError

RNG = np.random.default_rng(0)
FILES = {
    "UCF-101/Archery/v_1.avi": RNG.bytes(3000),
    "UCF-101/Archery/v_2.avi": bytes(70_000),
    "UCF-101/Bowling/x*[1].avi": b"",
    "UCF-101/é.avi": b"512" * 512,
    f"UCF-101/{'long' * 40}/{'name' * 30}.avi": b"of a long name",
}
END = bytes(1024)


def contents(path: Path) -> dict[str, bytes]:
    archive = read_archive(path)
    with closing(archive.contents(archive.members)) as given:
        found = {member.name: b"".join(pieces) for member, pieces in given}
    assert [member.name for member in archive.members] == list(found)
    assert all(member.num_bytes == len(found[member.name]) for member in archive.members)
    return found


PLAIN = {
    "gnu.tar": tar_of(FILES),
    "pax.tar": tar_of(FILES, tarfile.PAX_FORMAT),
    "deflated.zip": zip_of(FILES),
    "stored.zip": zip_of(FILES, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_pythons_own_packers_wrote_comes_back_bit_for_bit(tmp_path, kind):
    path = written(tmp_path / "named-otherwise", PLAIN[kind])
    assert contents(path) == FILES


def test_only_the_wanted_members_are_given(tmp_path):
    for kind, data in PLAIN.items():
        archive = read_archive(written(tmp_path / kind, data))
        wanted = archive.members[1::2]
        assert [member for member, _ in archive.contents(wanted)] == list(wanted)


def test_a_tar_tells_where_its_files_lie(tmp_path):
    path = written(tmp_path / "a.tar", tar_of(FILES))
    data = path.read_bytes()
    for member in read_archive(path).members:
        assert data[member.position :][: member.num_bytes] == FILES[member.name]


def pax(**records: str) -> bytes:
    info = tarfile.TarInfo("a.avi")
    info.pax_headers = {key.replace("__", "."): value for key, value in records.items()}
    return info.tobuf(tarfile.PAX_FORMAT)


def told_size(kind: bytes, field: bytes, data: bytes = b"") -> bytes:
    """Return a tar entry with a given 12-byte size field and a valid checksum."""
    header = bytearray(tar_entry("a.avi", kind=kind))
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data


NEGATIVE, ENDLESS = b"\xff" * 10 + b"\0\0", b"\x80" + b"\0" * 6 + b"\x7f" + b"\0" * 4
SPARSE_10 = {"GNU__sparse__major": "1", "GNU__sparse__minor": "0"}


def doubled_count(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[: at + 24] + (1 << 30).to_bytes(4, "little") + data[at + 28 :]


OUTSIDE = "leads out of its folder"
HOSTILE = {
    "parent.tar": (tar_entry("../a.avi") + END, OUTSIDE),
    "parent inside.tar": (tar_entry("a/../../b.avi") + END, OUTSIDE),
    "absolute.tar": (tar_entry("/etc/cron.d/a") + END, OUTSIDE),
    "long parent.tar": (tar_entry("x/" * 90 + "../" * 40 + "a.avi") + END, OUTSIDE),
    "pax parent.tar": (pax(path="../../a.avi") + END, OUTSIDE),
    "drive.tar": (tar_entry("C:/a.avi") + END, OUTSIDE),
    "parent folder.tar": (tar_entry("../a", kind=tarfile.DIRTYPE) + END, OUTSIDE),
    "backslash.tar": (tar_entry("a\\b.avi") + END, "is not the name of a file"),
    "escape.tar": (tar_entry("\x1b[31m.avi") + END, "is not the name of a file"),
    "empty name.tar": (tar_entry("") + END, "is not the name of a file"),
    "deep.tar": (tar_entry("a/" * 40 + "b.avi") + END, "too long or too deep"),
    "link.tar": (tar_entry("a.avi", kind=LINK, link="/etc/passwd") + END, "a symbolic link"),
    "hard link.tar": (tar_entry("a.avi", kind=HARD_LINK, link="/x") + END, "a hard link"),
    "device.tar": (tar_entry("a.avi", kind=DEVICE) + END, "a device"),
    "pipe.tar": (tar_entry("a.avi", kind=PIPE) + END, "a named pipe"),
    "sparse.tar": (tar_entry("a.avi", kind=tarfile.GNUTYPE_SPARSE) + END, "a sparse file"),
    "pax sparse.tar": (pax(GNU__sparse__size="99999999999") + END, "a sparse file"),
    "sparse without end.tar": (
        pax(**SPARSE_10) + b"9" * 9 + b"\n" + b"0\n" * 40_000 + END,
        "a name or an extended header of more than 65,536 bytes",
    ),
    "negative size.tar": (told_size(b"0", NEGATIVE) + END, "would unpack to more than"),
    "negative pax size.tar": (pax(path="b.avi", size="-512") + END, "a damaged extended header"),
    "name of a negative size.tar": (
        told_size(b"L", NEGATIVE, bytes(99_328)),
        "a name or an extended header of more than 65,536 bytes",
    ),
    "name of 2 TB.tar": (
        told_size(b"L", ENDLESS, bytes(99_328)),
        "a name or an extended header of more than 65,536 bytes",
    ),
    "many names.tar": (
        told_size(b"L", b"%011o\0" % 0) * 3000 + tar_entry("a.avi") + END,
        "a name or an extended header of more than 65,536 bytes|a damaged header",
    ),
    "unknown kind.tar": (tar_entry("a.avi", kind=b"Z") + END, "of the kind b'Z'"),
    "twice.tar": (tar_entry("a.avi") + tar_entry("./a.avi") + END, "holds 'a.avi' twice"),
    "file and folder.tar": (tar_entry("a") + tar_entry("a/b.avi") + END, "as a file and as a"),
    "folder and file.tar": (tar_entry("a/b.avi") + tar_entry("a") + END, "holds 'a' twice"),
    "cut off.tar": (tar_entry("a.avi", bytes(9000))[:5000], r"cut off: 4,512 bytes are missing"),
    "no end.tar": (tar_entry("a.avi", b"abc"), "is cut off: no end mark at byte 1,024"),
    "garbage behind.tar": (tar_entry("a.avi") + b"x" * 512, "byte 512: no tar header"),
    "nothing.tar": (tar_entry("a", kind=tarfile.DIRTYPE) + END, "holds no file"),
    "huge name.tar": (tar_entry("x" * 70_000) + END, "a name or an extended header of"),
    "all of one name.tar": (
        tarfile.TarInfo.create_pax_global_header({"path": "a.avi"}) + tar_entry("b") + END,
        "gives all its files the same name",
    ),
    "parent.zip": (zip_of({"../a.avi": b"x"}), OUTSIDE),
    "absolute.zip": (zip_of({"/etc/a.avi": b"x"}), OUTSIDE),
    "link.zip": (zip_with_mode("a.avi", b"/etc/passwd", stat.S_IFLNK | 0o777), "a symbolic link"),
    "device.zip": (zip_with_mode("a.avi", b"", stat.S_IFCHR), "is not a regular file"),
    "lzma.zip": (zip_of({"a.avi": b"x" * 99}, zipfile.ZIP_LZMA), "packed by method 14"),
    "overlapping.zip": (overlapping_zip(3, bytes(1000)), "lies over another file"),
    "cut off.zip": (zip_of(FILES)[:-40], "is cut off: the directory at its end is missing"),
    "too large.zip": (
        doubled_count(zip_of({"a.avi": b"abc" * 99})),
        r"larger than|is damaged|tells two sizes",
    ),
    "empty.zip": (zip_of({}), "holds no file"),
    "gzip": (b"\x1f\x8b" + bytes(99), "is compressed with gzip; uncompress it first"),
    "text": (b"no archive\n" * 99, "is not a tar, zip or rar archive"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_whole_with_the_reason(tmp_path, kind):
    data, reason = HOSTILE[kind]
    path = written(tmp_path / "archive", data)
    with pytest.raises(ArchiveError, match=reason) as refusal:
        contents(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 600
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive"]


def test_two_files_of_one_name_in_a_zip_are_refused(tmp_path):
    data = zip_of({"a.avi": b"1", "b.avi": b"2"}).replace(b"b.avi", b"a.avi")
    with pytest.raises(ArchiveError, match=r"holds 'a\.avi' twice"):
        contents(written(tmp_path / "a.zip", data))


def test_an_archive_that_would_fill_the_disk_is_refused_by_what_it_tells(tmp_path):
    info = tarfile.TarInfo("a.avi")
    info.size = 10 << 30
    with pytest.raises(ArchiveError, match=r"would unpack to more than 4,294,967,296 bytes"):
        contents(written(tmp_path / "a.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    # A zip of a megabyte that tells ten times a gigabyte.
    data = zip_of({f"{number}.avi": bytes(1 << 17) for number in range(10)})
    data = data.replace((1 << 17).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little"))
    with pytest.raises(ArchiveError, match=r"would unpack to more than 4,294,967,296 bytes"):
        contents(written(tmp_path / "a.zip", data))


def test_a_member_that_is_larger_than_it_tells_is_stopped_there(tmp_path):
    data = bytearray(zip_of({"a.avi": bytes(50 << 20)}))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    archive = read_archive(written(tmp_path / "a.zip", bytes(data)))
    given = archive.contents(archive.members)
    _, pieces = next(given)
    with pytest.raises(ArchiveError, match=r"'a\.avi' in it is damaged \(Bad CRC-32"):
        next(pieces)
    given.close()


def test_too_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(members_module, "MAX_MEMBERS", 3)
    files = {f"{number}.avi": b"" for number in range(4)}
    for name, data in (("a.tar", tar_of(files)), ("a.zip", zip_of(files))):
        with pytest.raises(ArchiveError, match="holds more than"):
            contents(written(tmp_path / name, data))


def test_a_zip_whose_directory_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    data = zip_of({f"{number}.avi": b"" for number in range(40)})
    monkeypatch.setattr(zip_module, "MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(ArchiveError, match="holds a directory of more than 1,000 bytes"):
        contents(written(tmp_path / "a.zip", data))


def test_a_pipe_or_a_device_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    for path in (tmp_path / "pipe.tar", Path("/dev/zero")):
        with pytest.raises(ArchiveError, match="is not a regular file"):
            read_archive(path)
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_archive(tmp_path / "none.tar")


@pytest.mark.parametrize("kind", ["gnu.tar", "deflated.zip", "stored.zip"])
def test_a_mutated_archive_is_read_or_refused_and_never_fails_otherwise(tmp_path, kind):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        data = bytearray(PLAIN[kind])
        for position in rng.integers(0, len(data), 3):
            data[position] ^= int(rng.integers(1, 256))
        try:
            contents(written(tmp_path / "a", bytes(data)))
        except ArchiveError:
            refused += 1
    assert refused > 20 or kind == "gnu.tar"  # a tar has no checksum of its files


def test_every_flipped_byte_of_a_zips_files_is_found(tmp_path):
    data = zip_of({"a.avi": b"some bytes of a video", "b.avi": b"others" * 9})
    for position in range(30 + 5, data.index(b"PK\x01\x02")):
        if data[position - 40 : position].rfind(b"PK\x03\x04") >= 0 and position > 90:
            continue  # the second local header: only its lengths are read
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            found = contents(written(tmp_path / "a.zip", bytes(damaged)))
        except ArchiveError:
            continue
        assert found == {"a.avi": b"some bytes of a video", "b.avi": b"others" * 9}


def test_unpacking_goes_on_where_it_was_stopped_and_uses_no_name_of_the_archive(tmp_path):
    archive = read_archive(written(tmp_path / "a.zip", zip_of(FILES)))
    folder, seen = tmp_path / "unpacked", []
    unpack(archive, archive.members[:2], folder, lambda: seen.append(1))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == len(seen) == 2
    unpack(archive, archive.members, folder, lambda: seen.append(1))
    assert len(seen) == 2 + len(FILES)
    for name, data in FILES.items():
        path = unpacked_path(folder, name)
        assert path.read_bytes() == data
        assert path.name.endswith(".avi")
        assert path.stem.isalnum()
        assert path.stat().st_mtime_ns == before.get(path, path.stat().st_mtime_ns)
    assert len(list(folder.iterdir())) == len(FILES)


def test_a_damaged_member_leaves_no_file(tmp_path):
    data = bytearray(zip_of({"a.avi": b"abc" * 1000}, zipfile.ZIP_STORED))
    data[500] ^= 1
    archive = read_archive(written(tmp_path / "a.zip", bytes(data)))
    with pytest.raises(ArchiveError, match=r"'a\.avi' in it is damaged"):
        unpack(archive, archive.members, tmp_path / "unpacked", lambda: None)
    assert list((tmp_path / "unpacked").iterdir()) == []


PROGRAMS = {"unar": ("unar", "lsar"), "unrar": ("unrar",)}


@pytest.fixture(params=PROGRAMS)
def program(request, tmp_path, monkeypatch) -> str:
    """Restrict PATH to one rar program, or skip the test if it is not installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS[request.param]:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin")
    return request.param


def test_a_rar_comes_back_bit_for_bit_through_every_program(tmp_path, program):
    files = {name: data for name, data in FILES.items() if name.isascii()}
    path = written(tmp_path / "a.rar", rar_of(files))
    assert contents(path) == files
    archive = read_archive(path)
    wanted = [member for member in archive.members if member.name.endswith("v_2.avi")]
    ((member, pieces),) = [(m, b"".join(p)) for m, p in archive.contents(wanted)]
    assert pieces == files[member.name]


@pytest.mark.parametrize("hostile", ["parent", "link", "damaged", "cut", "text"])
def test_a_hostile_rar_is_refused_whatever_the_program(tmp_path, program, hostile):
    data = rar_of({"a/b.avi": b"abc" * 1000, "c.avi": b"123" * 1000})
    data = {
        "parent": rar_of({"../../b.avi": b"abc"}),
        "link": rar_of({"b.avi": b"/etc/passwd"}, mode=0o120777),
        "damaged": data[:500] + b"X" + data[501:],
        "cut": data[:2000],
        "text": data[:7] + b"no rar archive" * 99,
    }[hostile]
    before = set(tmp_path.iterdir())
    path = written(tmp_path / "a.rar", data)
    with pytest.raises(ArchiveError):
        contents(path)
    assert set(tmp_path.iterdir()) == before | {path}


def fake(folder: Path, **programs: str) -> None:
    """Write fake programs, given as Python code, to a folder."""
    folder.mkdir(exist_ok=True)
    for name, body in programs.items():
        (folder / name).write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
        (folder / name).chmod(0o755)


LSAR = 'print(\'{"lsarContents": [{"XADFileName": "a.avi", "XADFileSize": 3}]}\')'
TROUBLE = {
    "less than it announced": (LSAR, "print('ab', end='')", r"'a\.avi' in it is damaged"),
    "more than it announced": (
        LSAR,
        "print('abcd', end='')",
        "unar gives more bytes than it announced",
    ),
    "failed": (LSAR, "print('abc', end=''); sys.exit(3)", r"cannot be read by unar \(exit 3\)"),
    "silent": (LSAR, "time.sleep(600)", "unar printed nothing for 1 s"),
    "wrote a file": (
        LSAR,
        "open('loot', 'wb', 0).write(b'x' * 9); print('abc', end='')",
        "in it is damaged",
    ),
    "lists nonsense": ("print('[1')", "", "cannot be listed by lsar"),
    "lists no size": (
        'print(\'{"lsarContents": [{"XADFileName": "a.avi"}]}\')',
        "",
        "cannot be listed by lsar",
    ),
    "lists another type": (
        'print(\'{"lsarContents": [{"XADFileName": ["a"], "XADFileSize": 3}]}\')',
        "",
        "cannot be listed by lsar",
    ),
    "lists no objects": ('print(\'{"lsarContents": ["a"]}\')', "", "cannot be listed by lsar"),
    "prints without end": (
        "while True: print('x' * 99999)",
        "",
        "lists more files than are accepted",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_program_that_misbehaves_does_no_harm(tmp_path, monkeypatch, trouble):
    lsar, unar, reason = TROUBLE[trouble]
    fake(tmp_path / "bin", lsar=lsar, unar=unar)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin")
    monkeypatch.setattr(rar, "SILENCE_SECONDS", 1.0 if trouble == "silent" else 60.0)
    monkeypatch.setattr(rar, "MAX_LISTING_BYTES", 1 << 20)
    path = written(tmp_path / "a.rar", rar_of({"a.avi": b"abc"}))
    with pytest.raises(ArchiveError, match=reason):
        contents(path)
    assert not list(tmp_path.rglob("loot"))


LSAR_OF_ONE = 'print(\'{"lsarContents": [{"XADFileName": "a.avi", "XADFileSize": 1}]}\')'
END_OF_RAR5 = bytes.fromhex("1d77565103050400")


def test_a_rar_that_is_cut_between_two_files_is_refused_before_any_program_runs(
    tmp_path, monkeypatch
):
    fake(tmp_path / "bin", lsar=LSAR_OF_ONE, unar="print('x', end='')")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin")
    rar4 = rar_of({"a.avi": b"abc" * 100, "b.avi": b"123" * 100})
    rar5 = b"Rar!\x1a\x07\x01\x00" + bytes(99) + END_OF_RAR5
    for data in (rar4, rar5):
        for size in range(20, len(data), 3):
            with pytest.raises(ArchiveError, match="has no end: it is cut off"):
                read_archive(written(tmp_path / "a.rar", data[:size]))
        assert len(read_archive(written(tmp_path / "a.rar", data)).members) == 1


def test_without_any_program_a_rar_says_what_to_install(tmp_path, monkeypatch):
    fake(tmp_path / "bin", unrar="print('another program of this name')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    path = written(tmp_path / "a.rar", rar_of({"a.avi": b"abc"}))
    with pytest.raises(ArchiveError, match=r"apt-get install unar.*or unpack it elsewhere"):
        read_archive(path)


def test_a_zip_of_more_than_4_gib_is_read_by_its_wide_fields(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("a.avi")
        with archive.open(info, "w", force_zip64=True) as file:
            file.write(b"abc" * 100)
    data = buffer.getvalue()
    # Say in the directory that both sizes stand in the wide field.
    at = data.index(b"PK\x01\x02")
    wide = b"\x01\x00\x10\x00" + (300).to_bytes(8, "little") * 2
    entry = bytearray(data[at : data.index(b"PK\x05\x06")])
    entry[20:28], entry[30:32] = b"\xff" * 8, len(wide).to_bytes(2, "little")
    entry += wide
    end = bytearray(data[data.index(b"PK\x05\x06") :])
    end[12:16] = len(entry).to_bytes(4, "little")
    assert contents(written(tmp_path / "a.zip", data[:at] + bytes(entry) + bytes(end))) == {
        "a.avi": b"abc" * 100
    }
