"""Checkpoint: weights, from being named until their bytes are gone, and who holds them.

Three things are told apart: how far registering came, whether the record is hidden, and whether
the bytes were given up. Deleting hides the record only; endpoints that hold the checkpoint go on,
even one that waits for the end of its registration. `Reclaim` gives the bytes up, and never while
somebody holds them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final, TypeAlias, assert_never

from engineshed import ids
from engineshed.api.catalog.v1.checkpoint_service_pb2 import CheckpointFile, ModelShape
from engineshed.api.catalog.v1.events_pb2 import (
    CheckpointDeleted,
    CheckpointFailed,
    CheckpointReclaimed,
    CheckpointRegistered,
    CheckpointRegistrationStarted,
    HoldReleased,
    HoldTaken,
)
from engineshed.catalog.domain.errors import (
    CheckpointFailedError,
    CheckpointInvalidError,
    CheckpointNotFoundError,
    EtagMismatchError,
    PlatformCheckpointError,
    StillNeededError,
)
from engineshed.catalog.domain.manifest import MAX_BYTES, ManifestLine, canonical, digest_of
from engineshed.fit import ModelShape as Shape

_LONGEST_REASON: Final = 2000  # characters


class Registration(Enum):
    """How far registering came."""

    UNDER_WAY = auto()
    COMPLETE = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that will be copied."""

    path: str  # relative, with "/"
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in the directory that a checkpoint is registered from."""

    files: tuple[SourceFile, ...]
    architecture: str
    parameter_count: int
    dtype: str
    max_position_embeddings: int  # 0: none stated
    base_model: str  # as the files say; "": they do not
    has_chat_template: bool
    shape: Shape

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Register:
    """Begin: the directory was looked at and can be copied."""

    checkpoint_id: str
    org_id: str
    name: str
    source_uri: str
    contents: Contents
    base_model: str = ""  # as the owner says
    expected_digest: str = ""
    expected_sha256: Mapping[str, str] = field(default_factory=dict)  # by path
    producer_job_id: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    """All files are copied, hashed and in their place."""

    lines: tuple[ManifestLine, ...]


@dataclass(frozen=True, slots=True)
class Fail:
    """The files cannot be copied."""

    reason: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Hide the record."""

    checkpoint_id: str
    org_id: str  # the caller's
    etag: str = ""  # "": whatever it is now


@dataclass(frozen=True, slots=True)
class TakeHold:
    """Keep the bytes for somebody."""

    checkpoint_id: str
    org_id: str  # the holder's
    holder_id: str


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """Give a hold back."""

    holder_id: str


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Give the bytes up."""


Command: TypeAlias = Register | Complete | Fail | Delete | TakeHold | ReleaseHold | Reclaim
Event: TypeAlias = (
    CheckpointRegistrationStarted
    | CheckpointRegistered
    | CheckpointFailed
    | CheckpointDeleted
    | CheckpointReclaimed
    | HoldTaken
    | HoldReleased
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Only what `decide` and the copying need; callers see `record.py`'s."""

    checkpoint_id: str
    org_id: str
    source_uri: str
    files: tuple[SourceFile, ...]
    expected_digest: str
    expected_sha256: Mapping[str, str]
    etag: str
    registration: Registration = Registration.UNDER_WAY
    failure: str = ""
    deleted: bool = False
    reclaimed: bool = False
    holders: frozenset[str] = frozenset()

    @property
    def to_be_copied(self) -> bool:
        """Whether its registration is to go on."""
        return self.registration is Registration.UNDER_WAY and not self.reclaimed


def stream_of(checkpoint_id: str) -> str:
    """Return the name of a checkpoint's stream."""
    return f"checkpoint/{checkpoint_id}"


def location_of(checkpoint_id: str) -> str:
    """Return where the platform's copy lies, relative to the artifact store."""
    return f"checkpoints/{checkpoint_id}"


def next_etag(etag: str) -> str:
    """Return the etag after one more change that callers see; the first one follows ""."""
    return str(int(etag or "0") + 1)


def changes_record(event: Event) -> bool:
    """Tell whether callers see what changed; they do not see holds."""
    return not isinstance(event, HoldTaken | HoldReleased)


def mismatch(state: Checkpoint, lines: tuple[ManifestLine, ...]) -> str:
    """Return in which way what was copied is not what the owner announced; "" when it is."""
    for line in sorted(lines):
        expected = state.expected_sha256.get(line.path, line.sha256)
        if line.sha256 != expected:
            return f"{line.path}: its sha256 is {line.sha256}, expected was {expected}"
    digest = digest_of(lines)
    if state.expected_digest and digest != state.expected_digest:
        return f"the digest is {digest}, expected was {state.expected_digest}"
    return ""


def decide(state: Checkpoint | None, command: Command) -> list[Event]:
    """Return what `command` makes true; an empty list means it already was."""
    match command:
        case Register():
            return _register(command)
        case Complete():
            return _complete(state, command)
        case Fail():
            return _fail(state, command.reason)
        case Delete():
            return _delete(state, command)
        case TakeHold():
            return _take_hold(state, command)
        case ReleaseHold():
            return _release_hold(state, command)
        case Reclaim():
            return _reclaim(state)
        case _:
            assert_never(command)


def evolve(state: Checkpoint | None, event: Event) -> Checkpoint:
    """Fold one event that has happened into the state; never refuses."""
    if isinstance(event, CheckpointRegistrationStarted):
        return _started(event)
    assert state is not None, "a stream starts with CheckpointRegistrationStarted"
    if changes_record(event):
        state = replace(state, etag=next_etag(state.etag))
    match event:
        case CheckpointRegistered():
            return replace(state, registration=Registration.COMPLETE)
        case CheckpointFailed():
            return replace(state, registration=Registration.FAILED, failure=event.reason)
        case CheckpointDeleted():
            return replace(state, deleted=True)
        case CheckpointReclaimed():
            return replace(state, reclaimed=True)
        case HoldTaken():
            return replace(state, holders=state.holders | {event.holder_id})
        case HoldReleased():
            return replace(state, holders=state.holders - {event.holder_id})
        case _:
            assert_never(event)


def _started(event: CheckpointRegistrationStarted) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=event.checkpoint_id,
        org_id=event.org_id,
        source_uri=event.source_uri,
        files=tuple(SourceFile(file.path, file.size_bytes) for file in event.files),
        expected_digest=event.expected_digest,
        expected_sha256={file.path: file.sha256 for file in event.files if file.sha256},
        etag=next_etag(""),
    )


def _register(command: Register) -> list[Event]:
    contents = command.contents
    _require_listable(contents.files)
    unknown = command.expected_sha256.keys() - {file.path for file in contents.files}
    if unknown:
        path = min(unknown)
        raise CheckpointInvalidError.of(
            f"{path} is not among the files that are copied: "
            + ", ".join(file.path for file in contents.files[:20]),
            field=f"sha256[{path!r}]",
            file=path,
        )
    files = [
        CheckpointFile(
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=command.expected_sha256.get(file.path, ""),
        )
        for file in sorted(contents.files, key=lambda file: file.path)
    ]
    return [
        CheckpointRegistrationStarted(
            checkpoint_id=command.checkpoint_id,
            org_id=command.org_id,
            name=command.name,
            source_uri=command.source_uri,
            location=location_of(command.checkpoint_id),
            architecture=contents.architecture,
            parameter_count=contents.parameter_count,
            dtype=contents.dtype,
            size_bytes=contents.size_bytes,
            max_position_embeddings=contents.max_position_embeddings,
            base_model=command.base_model or contents.base_model,
            expected_digest=command.expected_digest,
            files=files,
            has_chat_template=contents.has_chat_template,
            shape=_shape_message(contents.shape),
            producer_job_id=command.producer_job_id,
        )
    ]


def _shape_message(shape: Shape) -> ModelShape:
    return ModelShape(
        quantizable_parameters=shape.quantizable,
        weight_bytes=shape.weight_bytes,
        attending_layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        latent_values=shape.latent,
        hidden_size=shape.hidden,
        experts=shape.experts,
    )


def _require_listable(files: tuple[SourceFile, ...]) -> None:
    """Raise CheckpointInvalidError when the manifest, with its hashes, will not fit an event."""
    lines = [ManifestLine(file.path, file.size_bytes, "0" * 64) for file in files]
    if len(canonical(lines)) > MAX_BYTES:
        raise CheckpointInvalidError.of(
            f"it has {len(files)} files, more than a manifest can list; leave out what is not "
            "needed to serve it"
        )


def _complete(state: Checkpoint | None, command: Complete) -> list[Event]:
    if state is None or not state.to_be_copied:
        return []
    reason = mismatch(state, command.lines)
    if reason:
        return _fail(state, reason)
    files = [
        CheckpointFile(path=line.path, size_bytes=line.size_bytes, sha256=line.sha256)
        for line in sorted(command.lines)
    ]
    return [
        CheckpointRegistered(
            checkpoint_id=state.checkpoint_id,
            digest=digest_of(command.lines),
            files=files,
            size_bytes=sum(line.size_bytes for line in command.lines),
        )
    ]


def _fail(state: Checkpoint | None, reason: str) -> list[Event]:
    if state is None or not state.to_be_copied:
        return []
    reason = reason[:_LONGEST_REASON]
    return [CheckpointFailed(checkpoint_id=state.checkpoint_id, reason=reason)]


def _delete(state: Checkpoint | None, command: Delete) -> list[Event]:
    if state is not None and state.org_id == ids.PLATFORM and command.org_id != ids.PLATFORM:
        raise PlatformCheckpointError(
            f"checkpoint {state.checkpoint_id} belongs to the platform and stays",
            checkpoint_id=state.checkpoint_id,
        )
    if state is None or state.org_id != command.org_id or state.deleted:
        raise CheckpointNotFoundError.of(command.checkpoint_id)
    if command.etag and command.etag != state.etag:
        raise EtagMismatchError(
            f"etag: the checkpoint's is {state.etag!r} by now, not {command.etag!r}; "
            "read it again, then decide",
            checkpoint_id=state.checkpoint_id,
            etag=state.etag,
        )
    return [CheckpointDeleted(checkpoint_id=state.checkpoint_id)]


def _take_hold(state: Checkpoint | None, command: TakeHold) -> list[Event]:
    if state is None or state.org_id not in (command.org_id, ids.PLATFORM) or state.reclaimed:
        raise CheckpointNotFoundError.of(command.checkpoint_id)
    held = command.holder_id in state.holders
    if state.deleted and not held:
        raise CheckpointNotFoundError.of(command.checkpoint_id)
    if state.registration is Registration.FAILED:
        raise CheckpointFailedError(
            f"checkpoint {state.checkpoint_id} could not be registered: {state.failure}",
            checkpoint_id=state.checkpoint_id,
        )
    if held:
        return []
    return [HoldTaken(checkpoint_id=state.checkpoint_id, holder_id=command.holder_id)]


def _release_hold(state: Checkpoint | None, command: ReleaseHold) -> list[Event]:
    if state is None or command.holder_id not in state.holders:
        return []
    return [HoldReleased(checkpoint_id=state.checkpoint_id, holder_id=command.holder_id)]


def _reclaim(state: Checkpoint | None) -> list[Event]:
    if state is None or state.reclaimed:
        return []
    if not state.deleted or state.holders:
        why = f"held by {', '.join(sorted(state.holders))}" if state.holders else "not deleted"
        raise StillNeededError(
            f"checkpoint {state.checkpoint_id} is {why}", checkpoint_id=state.checkpoint_id
        )
    return [CheckpointReclaimed(checkpoint_id=state.checkpoint_id)]
