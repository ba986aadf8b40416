"""Directories of this machine as tar archives, and back.

An archive that comes out of a sandbox is written by strangers: what is unpacked stays in its
directory.
"""

from __future__ import annotations

import os
import stat
import tarfile
from typing import IO, Iterator

from .errors import EmberdError

#: Bytes that are read of a file at once (256 KiB).
_READ_BYTES = 256 << 10

#: Mode bits of files that are unpacked: no set-user-id, and none but the owner writes.
_MODE_BITS = 0o755


def packed(directory: str) -> Iterator[bytes]:
    """The content of a directory as a tar archive, in pieces.

    Files, directories and symbolic links are packed; sockets, devices and FIFOs are skipped. A file
    that becomes shorter meanwhile is an error, for its size has been announced.
    """
    for folder, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            inside = os.path.relpath(path, directory)
            found = os.lstat(path)
            info = tarfile.TarInfo(inside)
            info.mode, info.mtime = stat.S_IMODE(found.st_mode), found.st_mtime
            if stat.S_ISLNK(found.st_mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
            elif stat.S_ISDIR(found.st_mode):
                info.type = tarfile.DIRTYPE
            elif stat.S_ISREG(found.st_mode):
                info.size = found.st_size
            else:
                continue
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if info.size:
                yield from _content(path, info.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _content(path: str, size: int) -> Iterator[bytes]:
    left = size
    with open(path, "rb") as file:
        while left:
            piece = file.read(min(left, _READ_BYTES))
            if not piece:
                raise EmberdError(f"{path} became shorter while it was read")
            left -= len(piece)
            yield piece
    yield bytes(-size % tarfile.BLOCKSIZE)


def unpack(archive: IO[bytes], directory: str) -> None:
    """Unpacks an archive of strangers into a directory, which is made.

    # Errors
    `EmberdError` for a name or a link that leads outside, `OSError` of this machine.
    """
    root = os.path.realpath(directory)
    os.makedirs(root, exist_ok=True)
    links: list[tarfile.TarInfo] = []
    folders: list[tuple[str, int]] = []
    try:
        with tarfile.open(fileobj=archive, mode="r|") as members:
            for member in members:
                path = _inside(root, member.name)
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                    folders.append((path, member.mode))
                elif member.issym() or member.islnk():
                    links.append(member)
                elif member.isreg():
                    content = members.extractfile(member)
                    assert content is not None, "a regular file has content"
                    _write(path, content, member.mode)
    except tarfile.TarError as error:
        raise EmberdError(f"the archive cannot be read: {error}") from error
    # Links come last, so that nothing is written through one.
    for member in sorted(links, key=lambda one: one.issym()):
        _link(root, member)
    for path, mode in reversed(folders):
        os.chmod(path, mode & _MODE_BITS | stat.S_IRWXU)


def _inside(root: str, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        raise EmberdError(f"{name!r} of the archive leads outside the directory")
    path = os.path.join(root, *parts)
    if (
        os.path.commonpath([root, os.path.realpath(os.path.dirname(path) if parts else path)])
        != root
    ):
        raise EmberdError(f"{name!r} would be written through a link that leads outside")
    return path


def _write(path: str, content: IO[bytes], mode: int) -> None:
    import shutil

    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path) and not os.path.isdir(path):
        os.unlink(path)  # Not through a link, and other names of the file keep their content.
    with open(path, "xb") as file:
        shutil.copyfileobj(content, file, _READ_BYTES)
    os.chmod(path, mode & _MODE_BITS | stat.S_IRUSR | stat.S_IWUSR)


def _link(root: str, member: tarfile.TarInfo) -> None:
    path = _inside(root, member.name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path) and not os.path.isdir(path):
        os.unlink(path)
    if member.islnk():
        os.link(_inside(root, member.linkname), path, follow_symlinks=False)
        return
    target = os.path.normpath(os.path.join(os.path.dirname(path), member.linkname))
    if os.path.isabs(member.linkname) or os.path.commonpath([root, target]) != root:
        raise EmberdError(
            f"the link {member.name!r} to {member.linkname!r} leads outside the directory"
        )
    os.symlink(member.linkname, path)
