"""Archives that strangers wrote: nothing of them leaves its directory."""

from __future__ import annotations

import io
import os
import pathlib
import tarfile
import tempfile
import unittest

from emberd._tar import packed, unpack
from emberd.errors import EmberdError

Member = tuple[str, bytes, "str | bytes"]
FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def archive(*members: Member) -> io.BytesIO:
    """Members are a name, a type, and the content of a file or the target of a link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o6777
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    made.seek(0)
    return made


class Unpacking(unittest.TestCase):
    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.temp = pathlib.Path(temp.name).resolve()
        self.root = self.temp / "root"
        (self.temp / "secret").write_text("kept")

    def check_refused(self, *members: Member) -> None:
        with self.assertRaisesRegex(EmberdError, "outside", msg=str(members)):
            unpack(archive(*members), str(self.root))
        self.assertEqual((self.temp / "secret").read_text(), "kept")
        self.assertEqual(sorted(os.listdir(self.temp)), ["root", "secret"])
        for path in self.root.rglob("*"):
            self.assertTrue(path.resolve().is_relative_to(self.root), path)

    def test_names_and_links_that_lead_outside(self) -> None:
        self.check_refused(("../secret", FILE, b"new"))
        self.check_refused(("/tmp/emberd-of-a-stranger", FILE, b"new"))
        self.check_refused(("a/../../secret", FILE, b"new"))
        self.check_refused(("a", LINK, "/etc/passwd"))
        self.check_refused(("a", LINK, "../secret"))
        self.check_refused(("d/a", LINK, "../../secret"))
        self.check_refused(("a", HARD, "../secret"))

    def test_links_that_lead_outside_through_each_other(self) -> None:
        up = ("s1/s2/up", LINK, "../..")
        self.check_refused(up, ("y", LINK, "s1/s2/up/../secret"))
        self.check_refused(("y", LINK, "s1/s2/up/../secret"), up)

    def test_nothing_is_written_through_a_link(self) -> None:
        with self.assertRaisesRegex(EmberdError, "exists and is not a file"):
            unpack(archive(("d", LINK, "e"), ("d/f", FILE, b"x")), str(self.root / "one"))
        self.assertEqual((self.root / "one/d/f").read_bytes(), b"x")
        self.root.joinpath("two").mkdir()
        (self.root / "two/secret").symlink_to(self.temp / "secret")
        (self.root / "two/out").symlink_to(self.temp)
        unpack(archive(("secret", FILE, b"new")), str(self.root / "two"))
        self.assertEqual((self.root / "two/secret").read_bytes(), b"new")
        self.assertEqual((self.temp / "secret").read_text(), "kept")
        for member in (("out/secret", FILE, b"new"), ("out", tarfile.DIRTYPE, b"")):
            with self.assertRaisesRegex(EmberdError, "through a link"):
                unpack(archive(member), str(self.root / "two"))

    def test_modes_and_devices(self) -> None:
        unpack(archive(("f", FILE, b"x"), ("null", tarfile.CHRTYPE, "")), str(self.root))
        self.assertEqual(self.root.joinpath("f").stat().st_mode & 0o7777, 0o755)
        self.assertEqual(os.listdir(self.root), ["f"])

    def test_what_is_no_archive(self) -> None:
        for data in (b"x" * 2000, archive(("f", FILE, b"x" * 3000)).getvalue()[:1000]):
            with self.assertRaisesRegex(EmberdError, "archive cannot be read"):
                unpack(io.BytesIO(data), str(self.root))

    def test_a_directory_there_and_back(self) -> None:
        self.root.joinpath("a/empty").mkdir(parents=True)
        (self.root / ("long" * 40)).write_bytes(b"x" * 70_000)
        (self.root / "a/é\udcff").write_bytes(b"")
        (self.root / "link").symlink_to("a/empty")
        os.link(self.root / ("long" * 40), self.root / "same")
        os.mkfifo(self.root / "fifo")
        pieces = list(packed(str(self.root)))
        self.assertLess(max(map(len, pieces)), 1 << 20)
        unpack(io.BytesIO(b"".join(pieces)), str(self.temp / "back"))
        names = {str(path.relative_to(self.root)) for path in self.root.rglob("*")} - {"fifo"}
        back = {
            str(path.relative_to(self.temp / "back")) for path in (self.temp / "back").rglob("*")
        }
        self.assertEqual(back, names)
        self.assertEqual((self.temp / "back/same").read_bytes(), b"x" * 70_000)
