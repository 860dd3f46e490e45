"""The record of a checkpoint as callers see it, folded from its events.

The read model and reading as of a moment use the same fold, so they cannot differ.
"""

from typing import assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint, CheckpointFile
from engineshed.api.catalog.v1.events_pb2 import (
    CheckpointDeleted,
    CheckpointFailed,
    CheckpointReclaimed,
    CheckpointRegistered,
    CheckpointRegistrationStarted,
    HoldReleased,
    HoldTaken,
)
from engineshed.catalog.domain.checkpoint import Event, changes_record, next_etag


def fold(record: Checkpoint | None, event: Event, recorded_at: Timestamp) -> Checkpoint:
    """Return the record after one more event; `record` itself is left as it is."""
    after = Checkpoint()
    if isinstance(event, CheckpointRegistrationStarted):
        after = _started(event)
        after.create_time.CopyFrom(recorded_at)
    else:
        assert record is not None, "a stream starts with CheckpointRegistrationStarted"
        after.CopyFrom(record)
        _change(after, event)
    if changes_record(event):
        after.etag = next_etag(after.etag)
        after.update_time.CopyFrom(recorded_at)
    return after


def is_hidden(record: Checkpoint) -> bool:
    """Tell whether the record is shown only to those who ask for deleted ones."""
    return record.state in (Checkpoint.STATE_DELETED, Checkpoint.STATE_RECLAIMED)


def _started(event: CheckpointRegistrationStarted) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=event.checkpoint_id,
        org_id=event.org_id,
        name=event.name,
        state=Checkpoint.STATE_REGISTERING,
        source_uri=event.source_uri,
        location=event.location,
        size_bytes=event.size_bytes,
        architecture=event.architecture,
        parameter_count=event.parameter_count,
        dtype=event.dtype,
        max_position_embeddings=event.max_position_embeddings,
        base_model=event.base_model,
        producer_job_id=event.producer_job_id,
        files=[  # a hash that was only announced is not shown
            CheckpointFile(path=file.path, size_bytes=file.size_bytes) for file in event.files
        ],
        has_chat_template=event.has_chat_template,
        shape=event.shape if event.HasField("shape") else None,
    )


def _change(record: Checkpoint, event: Event) -> None:
    """Change `record` by an event that is not its first."""
    hidden = record.state == Checkpoint.STATE_DELETED  # held while registering: it stays hidden
    match event:
        case CheckpointRegistered():
            record.digest = event.digest
            record.size_bytes = event.size_bytes
            del record.files[:]
            record.files.extend(event.files)
            if not hidden:
                record.state = Checkpoint.STATE_REGISTERED
        case CheckpointFailed():
            record.state_reason = event.reason
            if not hidden:
                record.state = Checkpoint.STATE_FAILED
        case CheckpointDeleted():
            record.state = Checkpoint.STATE_DELETED
        case CheckpointReclaimed():
            record.state = Checkpoint.STATE_RECLAIMED
        case HoldTaken() | HoldReleased():
            pass
        case CheckpointRegistrationStarted():
            raise AssertionError("only the first event starts a stream")
        case _:
            assert_never(event)
