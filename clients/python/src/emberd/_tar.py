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

    Raises `EmberdError` for a name or a link that leads outside, `OSError` of this machine.
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
                    _check_within(root, path, member.name)
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
    for member in links:
        if member.islnk():
            _hard_link(root, member)
    _symlinks(root, [member for member in links if member.issym()])
    for path, mode in reversed(folders):
        os.chmod(path, mode & _MODE_BITS | stat.S_IRWXU)


def _inside(root: str, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        raise EmberdError(f"{name!r} of the archive leads outside the directory")
    path = os.path.join(root, *parts)
    if parts:
        _check_within(root, os.path.dirname(path), name)
    return path


def _check_within(root: str, directory: str, name: str) -> None:
    if not _leads_inside(root, directory):
        raise EmberdError(f"{name!r} would be written through a link that leads outside")


def _leads_inside(root: str, path: str) -> bool:
    return os.path.commonpath([root, os.path.realpath(path)]) == root


def _write(path: str, content: IO[bytes], mode: int) -> None:
    import shutil

    _clear(path)
    with open(path, "xb") as file:
        shutil.copyfileobj(content, file, _READ_BYTES)
    os.chmod(path, mode & _MODE_BITS | stat.S_IRUSR | stat.S_IWUSR)


def _hard_link(root: str, member: tarfile.TarInfo) -> None:
    path = _free(root, member)
    os.link(_inside(root, member.linkname), path, follow_symlinks=False)


def _symlinks(root: str, members: list[tarfile.TarInfo]) -> None:
    """Makes all links, and then looks where they lead: one may lead through another."""
    made: list[tuple[str, tarfile.TarInfo]] = []
    try:
        for member in members:
            path = _free(root, member)
            target = os.path.normpath(os.path.join(os.path.dirname(path), member.linkname))
            if os.path.isabs(member.linkname) or os.path.commonpath([root, target]) != root:
                raise _outside(member)
            os.symlink(member.linkname, path)
            made.append((path, member))
        for path, member in made:
            if not _leads_inside(root, path):
                raise _outside(member)
    except BaseException:
        for path, _ in made:
            os.unlink(path)
        raise


def _free(root: str, member: tarfile.TarInfo) -> str:
    """The path of a link, with nothing at it."""
    path = _inside(root, member.name)
    _clear(path)
    return path


def _clear(path: str) -> None:
    """Removes what is at a path: not through a link, and other names of a file keep its content."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.lexists(path):
        raise EmberdError(f"{path!r} exists and is not a file")


def _outside(member: tarfile.TarInfo) -> EmberdError:
    return EmberdError(
        f"the link {member.name!r} to {member.linkname!r} leads outside the directory"
    )
