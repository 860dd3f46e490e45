"""The store of engines that hosts share, in a folder or a bucket: whatever fsspec reaches.

    <store>/<key>/<digest>/…      the files of the engine with that digest, engine.json among them
    <store>/<key>/entry.json      written last: the digest, and sha256 and size of every file

An entry counts from the moment that entry.json is there, so half an upload is never taken for an
engine. What comes from the store is checked on the way in, file by file. Whoever may write there
decides what replicas run: it is for agents alone.
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, Literal, TypeVar

import fsspec
from pydantic import TypeAdapter, ValidationError

from engineshed.agent.engines.interface import Progress
from engineshed.agent.engines.patience import PatientCalls, Pulse
from engineshed.triton.engine import (
    FILE_NAME,
    EngineFile,
    EngineManifest,
    EngineManifestError,
)

_ENTRY: Final = "entry.json"
_ENTRY_BYTES: Final = 16 << 20
_CHUNK: Final = 4 << 20
_HEX: Final = frozenset("0123456789abcdef")

FETCHING: Final = "fetching the engine"
"""The stage in which an engine comes from the store."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds the store may let us wait."""

    answer: float = 5.0
    """For a small answer; a build waits for it."""
    download: float = 15.0
    """For the next megabytes of an engine; a build waits for them."""
    upload: float = 120.0
    """Until the next megabytes are taken; nobody waits."""


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """The content of entry.json."""

    schema_version: Literal[1]
    digest: str
    """The engine's, 64 hex digits: the name of its folder."""
    files: dict[str, EngineFile]

    @property
    def size(self) -> int:
        """What its files come to, in bytes."""
        return sum(file.size for file in self.files.values())


class StoreUnreachableError(Exception):
    """The store does not answer, or not as it should; in words."""


class PoisonedEntryError(Exception):
    """What the store has is not the engine that it is said to be; in words.

    Attributes:
        entry: what entry.json says; None when it says nothing that makes sense.

    """

    def __init__(self, message: str, entry: StoredEngine | None = None) -> None:
        super().__init__(message)
        self.entry = entry


class EngineStore:
    """One store, by its URL. Its answers are awaited for so long and no longer."""

    def __init__(self, url: str, patience: Patience = Patience()) -> None:
        self.url = url
        self._patience = patience
        self._calls = PatientCalls()

    async def find(self, key: str) -> StoredEngine | None:
        """Return what the store has under `key`.

        Raises:
            StoreUnreachableError: it does not say.
            PoisonedEntryError: it has something else.

        """
        return await self._call(lambda _: self._find(key), self._patience.answer)

    async def fetch(
        self, key: str, entry: StoredEngine, destination: Path, progress: Progress
    ) -> EngineManifest:
        """Copy the engine into the empty folder `destination`, and see that it is the right one.

        Raises:
            StoreUnreachableError: it does not come.
            PoisonedEntryError: something else came.

        """

        def heard(done: int) -> None:
            progress(FETCHING, done / max(entry.size, 1))

        return await self._call(
            lambda pulse: self._fetch(key, entry, destination, pulse),
            self._patience.download,
            heard,
        )

    async def add(self, key: str, directory: Path) -> bool:
        """Copy the engine in `directory` into the store; False: it has one under that key.

        Raises:
            StoreUnreachableError: it does not take it.
            EngineManifestError: the engine is damaged.

        """
        return await self._call(
            lambda pulse: self._add(key, directory, pulse), self._patience.upload
        )

    async def withdraw(self, key: str, entry: StoredEngine | None) -> None:
        """Remove a poisoned entry, so that nobody else takes it and another may come.

        Raises:
            StoreUnreachableError: it stays.

        """
        await self._call(lambda _: self._withdraw(key, entry), self._patience.answer)

    async def _call(
        self,
        function: Callable[[Pulse], T],
        patience: float,
        heard: Callable[[int], None] = lambda _done: None,
    ) -> T:
        try:
            return await self._calls.call(function, patience, heard)
        except (PoisonedEntryError, EngineManifestError):
            raise
        except Exception as error:  # each of fsspec's file systems raises what its library does
            raise StoreUnreachableError(str(error) or type(error).__name__) from error

    # --- in threads -----------------------------------------------------------------------------

    def _open(self, *names: str) -> tuple[Any, str]:
        """Return the file system and the path of something in the store."""
        options = {"auto_mkdir": True} if self.url.startswith("file:") else {}
        files, root = fsspec.core.url_to_fs(self.url, **options)
        return files, "/".join((root.rstrip("/"), *names))

    def _find(self, key: str) -> StoredEngine | None:
        files, path = self._open(key, _ENTRY)
        try:
            with files.open(path, "rb", block_size=_CHUNK) as reader:
                text = reader.read(_ENTRY_BYTES)
        except FileNotFoundError:
            return None
        try:
            entry = _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise PoisonedEntryError(f"{_ENTRY} is not what an agent wrote: {error}") from error
        if reason := reason_to_refuse(entry):
            raise PoisonedEntryError(reason)
        return entry

    def _fetch(
        self, key: str, entry: StoredEngine, destination: Path, pulse: Pulse
    ) -> EngineManifest:
        done = 0
        for path, expected in sorted(entry.files.items()):
            files, source = self._open(key, entry.digest, path)
            target = destination / path
            pulse.beat(done)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                reader = files.open(source, "rb", block_size=_CHUNK)
            except FileNotFoundError as error:
                raise PoisonedEntryError(f"{path} is missing", entry) from error
            with reader, target.open("xb") as writer:
                found = _copy(reader, writer, expected.size, done, pulse)
            if found != expected:
                raise PoisonedEntryError(f"{path} is not the file that was put there", entry)
            done += expected.size
        try:
            return _manifest(destination, entry)
        except EngineManifestError as error:
            raise PoisonedEntryError(str(error), entry) from error

    def _add(self, key: str, directory: Path, pulse: Pulse) -> bool:
        files, marker = self._open(key, _ENTRY)
        if files.exists(marker):
            return False
        manifest = EngineManifest.read(directory)
        digest = manifest.digest.removeprefix("sha256:")
        written, done = {}, 0
        for path in [FILE_NAME, *manifest.files]:
            size = (directory / path).stat().st_size
            _, target = self._open(key, digest, path)
            with (directory / path).open("rb") as reader, files.open(target, "wb") as writer:
                written[path] = _copy(reader, writer, size, done, pulse)
            if written[path] != manifest.files.get(path, written[path]):
                raise EngineManifestError(f"{path} is not what was built")
            done += size
        # Under another name first: where that is no single step, a half of it must not count.
        entry = StoredEngine(1, digest, written)
        _, draft = self._open(key, f"{_ENTRY}.{uuid.uuid4().hex}")
        files.pipe_file(draft, json.dumps(asdict(entry)).encode())
        pulse.beat(done)
        files.mv(draft, marker)
        return True

    def _withdraw(self, key: str, entry: StoredEngine | None) -> None:
        files, marker = self._open(key, _ENTRY)
        files.rm_file(marker)
        if entry is not None:
            _, folder = self._open(key, entry.digest)
            files.rm(folder, recursive=True)


_ADAPTER: Final = TypeAdapter(StoredEngine)


def _copy(reader: BinaryIO, writer: BinaryIO, size: int, done: int, pulse: Pulse) -> EngineFile:
    """Copy `size` bytes, or what there is of them, and see whether more would come."""
    digest, copied = hashlib.sha256(), 0
    while chunk := reader.read(min(_CHUNK, size - copied + 1)):
        pulse.beat(done + copied)
        digest.update(chunk)
        copied += len(chunk)
        if copied > size:
            break
        writer.write(chunk)
    pulse.beat(done + min(copied, size))
    return EngineFile(copied, digest.hexdigest())


def reason_to_refuse(entry: StoredEngine) -> str:
    """Return why an entry must not be fetched; empty when it may."""
    if len(entry.digest) != 64 or not _HEX.issuperset(entry.digest):
        return f"{entry.digest!r} is no digest"
    if FILE_NAME not in entry.files:
        return f"{FILE_NAME} is not among the files"
    for path, file in entry.files.items():
        pure = PurePosixPath(path)
        inside = not pure.is_absolute() and ".." not in pure.parts and str(pure) == path
        if not inside or path == "." or "\0" in path or file.size < 0:
            return f"{path!r} is no file of an engine"
    return ""


def _manifest(directory: Path, entry: StoredEngine) -> EngineManifest:
    """Return the manifest of an engine that was fetched.

    Raises:
        EngineManifestError: it does not go with the entry.

    """
    manifest = EngineManifest.read(directory)
    if not manifest.is_whole or manifest.digest != f"sha256:{entry.digest}":
        raise EngineManifestError(f"{FILE_NAME} does not have the digest that the entry states")
    if {FILE_NAME: entry.files[FILE_NAME], **manifest.files} != entry.files:
        raise EngineManifestError(f"{FILE_NAME} does not list the files of the entry")
    return manifest
