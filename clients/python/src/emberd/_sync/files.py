# Written from aio/files.py by tools/generate_sync.py: change that one.
"""Files of a sandbox."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, List

from ..errors import NotFound
from ._net import Content, opening
from .streams import Download, FileChanges

if TYPE_CHECKING:
    from .. import types
    from ._operations_inside import Path
    from .client import Client

#: Levels below a directory that `tree` lists: the API's limit.
DEPTH_MAX = 256


class Files:
    """Files of a sandbox. Relative paths begin at the home of `user`, which is root's by
    default.
    """

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self._id = id

    def read(
        self, path: Path, *, offset: int = 0, length: int | None = None, user: str | None = None
    ) -> bytes:
        """The content of a file, or of a part of it."""
        with self.stream(path, offset=offset, length=length, user=user) as download:
            return download.read()

    def read_text(self, path: Path, *, user: str | None = None) -> str:
        """The content of a file of UTF-8."""
        return (self.read(path, user=user)).decode()

    @opening
    def stream(
        self, path: Path, *, offset: int = 0, length: int | None = None, user: str | None = None
    ) -> Download:
        """The content of a file piece by piece."""
        return self._client.read_file(self._id, path, offset=offset, length=length, user=user)

    def write(
        self,
        path: Path,
        content: Content,
        *,
        length: int | None = None,
        mode: int | None = None,
        user: str | None = None,
    ) -> types.FileEntry:
        """Writes a file, whole or not at all: of a string, bytes, an open file, or pieces.

        Parents are made. A new file has mode 0644, a replaced one keeps its own. The memory that is
        taken does not depend on the size.
        """
        return self._client.write_file(
            self._id, path, content, length=length, mode=mode, user=user
        )

    def upload(
        self, local: str | os.PathLike[str], path: Path, *, user: str | None = None
    ) -> None:
        """Copies a file, or the content of a directory, to `path` in the sandbox. Modes are
        kept.
        """
        local = os.fspath(local)
        if os.path.isdir(local):
            from .._tar import packed

            self._client.write_archive(self._id, path, packed(local), user=user)
            return
        with open(local, "rb") as file:
            found = os.fstat(file.fileno())
            mode = found.st_mode & 0o777
            self.write(path, file, length=found.st_size, mode=mode, user=user)

    def download(
        self, path: Path, local: str | os.PathLike[str], *, user: str | None = None
    ) -> None:
        """Copies a file, or the content of a directory, to `local` on this machine.

        A file replaces the old one once it is there as a whole. Of a directory, links that lead
        outside are refused.
        """
        local = os.fspath(local)
        entry = self.stat(path, user=user)
        if "directory" in (entry["type"], entry.get("target_type")):
            self._download_directory(path, local, user)
            return
        part = f"{local}.{os.urandom(4).hex()}.part"
        try:
            with self.stream(path, user=user) as download:
                with open(part, "xb") as file:
                    for piece in download:
                        file.write(piece)
            if entry["type"] == "file":
                os.chmod(part, entry["mode"] & 0o777)
            os.replace(part, local)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise

    def _download_directory(self, path: Path, local: str, user: str | None) -> None:
        import tempfile

        from .._tar import unpack

        with tempfile.TemporaryFile() as archive:
            download = self._client.read_archive(self._id, path, user=user)
            with download:
                for piece in download:
                    archive.write(piece)
            archive.seek(0)
            unpack(archive, local)

    def stat(self, path: Path, *, user: str | None = None) -> types.FileEntry:
        """Type, size, owner and mode. Those of a link are its own."""
        return self._client.stat_file(self._id, path, user=user)

    def exists(self, path: Path, *, user: str | None = None) -> bool:
        """Whether there is something at the path."""
        try:
            self.stat(path, user=user)
        except NotFound as error:
            if error.code != "not_found":
                raise
            return False
        return True

    def list(
        self, path: Path = ".", *, depth: int = 1, user: str | None = None
    ) -> List[types.FileEntry]:
        """The content of a directory, sorted by name, `depth` levels deep."""
        listed = self._client.list_files(self._id, path, depth=depth, user=user)
        return listed["entries"]

    def tree(self, path: Path = ".", *, user: str | None = None) -> types.FileList:
        """Everything below a directory; `cut` says whether there are more than 100,000 entries."""
        return self._client.list_files(self._id, path, depth=DEPTH_MAX, user=user)

    def make_dir(
        self, path: Path, *, mode: int | None = None, user: str | None = None
    ) -> types.FileEntry:
        """Makes a directory and its parents."""
        return self._client.make_directory(self._id, path, mode=mode, user=user)

    def move(self, path: Path, to: Path, *, user: str | None = None) -> types.FileEntry:
        """Moves a file or a directory. A file at the new path is replaced."""
        return self._client.move_file(self._id, path, to, user=user)

    def delete(self, path: Path, *, user: str | None = None) -> None:
        """Deletes a file, or a directory with its content. A path that does not exist is fine."""
        self._client.delete_file(self._id, path, user=user)

    @opening
    def watch(
        self, path: Path, *, recursive: bool = False, user: str | None = None
    ) -> FileChanges:
        """Changes of a file, or in a directory, from the time this returns."""
        return self._client.watch_files(self._id, path, recursive=recursive, user=user)
