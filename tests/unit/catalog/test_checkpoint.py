"""What becomes of a checkpoint, whatever is asked of it in whatever order."""

import hashlib
from dataclasses import replace
from functools import reduce

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from engineshed.api.catalog.v1 import checkpoint_service_pb2 as pb
from engineshed.api.catalog.v1.events_pb2 import (
    CheckpointDeleted,
    CheckpointFailed,
    CheckpointReclaimed,
    CheckpointRegistered,
    CheckpointRegistrationStarted,
    HoldReleased,
    HoldTaken,
)
from engineshed.catalog.domain import record
from engineshed.catalog.domain.checkpoint import (
    Checkpoint,
    Command,
    Complete,
    Contents,
    Delete,
    Event,
    Fail,
    Reclaim,
    Register,
    ReleaseHold,
    SourceFile,
    TakeHold,
    decide,
    evolve,
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
from engineshed.errors import DomainError
from engineshed.eventstore.codec import MAX_EVENT_BYTES
from engineshed.fit import ModelShape

CKPT = "ckpt_01J00000000000000000000000"
ORG = "org_01J00000000000000000000000"
OTHER = "org_01J00000000000000000000001"
HOLDERS = ["ep_01J00000000000000000000000", "ep_01J00000000000000000000001"]
LINES = (
    ManifestLine("config.json", 10, "a" * 64),
    ManifestLine("model.safetensors", 100, "b" * 64),
)
CONTENTS = Contents(
    files=tuple(SourceFile(line.path, line.size_bytes) for line in LINES),
    architecture="LlamaForCausalLM",
    parameter_count=25,
    dtype="float32",
    max_position_embeddings=128,
    base_model="",
    has_chat_template=True,
    shape=ModelShape(25, 20, 100, 1, 2, 4, 0, 8, 0, 128),
)
REGISTER = Register(CKPT, ORG, "bot", "file:///bot", CONTENTS)
DELETE = Delete(CKPT, ORG)
HOLD = TakeHold(CKPT, ORG, HOLDERS[0])
RELEASE = ReleaseHold(HOLDERS[0])


def after(*commands: Command) -> Checkpoint | None:
    """The state after commands, each of which is accepted."""
    state: Checkpoint | None = None
    for command in commands:
        state = reduce(evolve, decide(state, command), state)
    return state


def test_registering_begins_with_all_that_was_found() -> None:
    (event,) = decide(None, REGISTER)

    assert isinstance(event, CheckpointRegistrationStarted)
    assert event.location == f"checkpoints/{CKPT}"
    assert event.size_bytes == 110
    assert [file.path for file in event.files] == ["config.json", "model.safetensors"]


def test_what_the_owner_says_of_the_base_model_wins() -> None:
    contents = replace(CONTENTS, base_model="from/readme")

    (read,) = decide(None, Register(CKPT, ORG, "bot", "file:///bot", contents))
    (said,) = decide(None, Register(CKPT, ORG, "bot", "file:///bot", contents, "said/base"))

    assert isinstance(read, CheckpointRegistrationStarted)
    assert isinstance(said, CheckpointRegistrationStarted)
    assert (read.base_model, said.base_model) == ("from/readme", "said/base")


def test_a_hash_for_a_file_that_is_not_copied_is_refused() -> None:
    command = Register(
        CKPT, ORG, "bot", "file:///bot", CONTENTS, expected_sha256={"mode.safetensors": "c" * 64}
    )

    with pytest.raises(CheckpointInvalidError, match=r"mode\.safetensors") as refused:
        decide(None, command)

    assert refused.value.fields[0].field == "sha256['mode.safetensors']"


@pytest.mark.parametrize("name", ["x", "long" * 50, "機関庫" * 50])
def test_what_can_be_begun_fits_an_event_with_all_its_hashes(name: str) -> None:
    def begin(count: int) -> Register:
        lines = [ManifestLine(f"{name}-{number}", 2**40, "f" * 64) for number in range(count)]
        contents = replace(
            CONTENTS, files=tuple(SourceFile(line.path, line.size_bytes) for line in lines)
        )
        return Register(
            CKPT,
            ORG,
            "n" * 100,
            "u" * 4096,
            contents,
            expected_sha256={line.path: line.sha256 for line in lines},
        )

    with pytest.raises(CheckpointInvalidError, match="5000 files, more than a manifest can list"):
        decide(None, begin(5000))
    command = begin(500)
    (begun,) = decide(None, command)
    lines = tuple(
        ManifestLine(file.path, file.size_bytes, "f" * 64) for file in command.contents.files
    )
    (completed,) = decide(after(command), Complete(lines))
    for event in (begun, completed):
        assert len(event.SerializeToString()) < len(canonical(lines)) + 8192
    assert MAX_BYTES + 8192 < MAX_EVENT_BYTES


def test_a_complete_copy_is_registered_with_its_digest() -> None:
    (event,) = decide(after(REGISTER), Complete(LINES))

    assert isinstance(event, CheckpointRegistered)
    assert event.digest == digest_of(LINES)
    assert event.size_bytes == 110


def test_the_digest_is_the_hash_of_a_text_that_never_changes() -> None:
    files = [
        '{"path":"config.json","sha256":"' + "a" * 64 + '","size_bytes":10}',
        '{"path":"model.safetensors","sha256":"' + "b" * 64 + '","size_bytes":100}',
    ]
    text = f"[{files[0]},{files[1]}]"

    assert canonical(LINES).decode() == text
    assert digest_of(LINES) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_does_not_depend_on_the_order_of_the_files() -> None:
    assert digest_of(LINES) == digest_of(reversed(LINES))


@pytest.mark.parametrize(
    ("announced", "told"),
    [
        ({"expected_sha256": {"config.json": "f" * 64}}, ["config.json", "a" * 64, "f" * 64]),
        ({"expected_digest": f"sha256:{'f' * 64}"}, [digest_of(LINES), "f" * 64]),
    ],
)
def test_a_copy_that_is_not_what_was_announced_fails_and_tells_both(
    announced: dict[str, object], told: list[str]
) -> None:
    state = after(Register(CKPT, ORG, "bot", "file:///bot", CONTENTS, **announced))  # type: ignore[arg-type]  # keyword arguments by name

    (event,) = decide(state, Complete(LINES))

    assert isinstance(event, CheckpointFailed)
    assert all(part in event.reason for part in told)


def test_a_copy_that_is_what_was_announced_is_registered() -> None:
    state = after(
        Register(
            CKPT,
            ORG,
            "bot",
            "file:///bot",
            CONTENTS,
            expected_digest=digest_of(LINES),
            expected_sha256={line.path: line.sha256 for line in LINES},
        )
    )

    (event,) = decide(state, Complete(LINES))

    assert isinstance(event, CheckpointRegistered)


@pytest.mark.parametrize("ended", [Complete(LINES), Fail("no room")])
def test_a_registration_ends_once(ended: Command) -> None:
    state = after(REGISTER, ended)

    assert decide(state, Complete(LINES)) == []
    assert decide(state, Fail("again")) == []


def test_deleting_needs_the_etag_that_it_has_now() -> None:
    state = after(REGISTER, Complete(LINES))

    with pytest.raises(EtagMismatchError, match="'2'"):
        decide(state, Delete(CKPT, ORG, etag="1"))
    assert len(decide(state, Delete(CKPT, ORG, etag="2"))) == 1


def test_a_hold_does_not_change_the_etag() -> None:
    before, held = after(REGISTER), after(REGISTER, HOLD)

    assert before is not None
    assert held is not None
    assert before.etag == held.etag


def test_a_deleted_checkpoint_is_not_found_by_who_would_delete_or_hold_it() -> None:
    state = after(REGISTER, DELETE)

    with pytest.raises(CheckpointNotFoundError):
        decide(state, DELETE)
    with pytest.raises(CheckpointNotFoundError):
        decide(state, HOLD)


def test_who_holds_a_deleted_checkpoint_may_ask_for_the_hold_again() -> None:
    assert decide(after(REGISTER, HOLD, DELETE), HOLD) == []


def test_a_stranger_can_neither_delete_nor_hold() -> None:
    state = after(REGISTER)

    with pytest.raises(CheckpointNotFoundError):
        decide(state, Delete(CKPT, OTHER))
    with pytest.raises(CheckpointNotFoundError):
        decide(state, TakeHold(CKPT, OTHER, HOLDERS[0]))


def test_everybody_can_hold_what_belongs_to_the_platform_and_nobody_delete_it() -> None:
    state = after(Register(CKPT, "_platform", "sample", "file:///sample", CONTENTS))

    assert len(decide(state, TakeHold(CKPT, OTHER, HOLDERS[0]))) == 1
    with pytest.raises(PlatformCheckpointError):
        decide(state, Delete(CKPT, OTHER))


def test_a_failed_checkpoint_cannot_be_held_and_says_why() -> None:
    with pytest.raises(CheckpointFailedError, match="no room"):
        decide(after(REGISTER, Fail("no room")), HOLD)


@pytest.mark.parametrize("commands", [[REGISTER], [REGISTER, HOLD, DELETE], [REGISTER, HOLD]])
def test_what_is_needed_is_not_reclaimed(commands: list[Command]) -> None:
    with pytest.raises(StillNeededError):
        decide(after(*commands), Reclaim())


def test_a_held_checkpoint_goes_on_being_registered_after_its_deletion() -> None:
    state = after(REGISTER, HOLD, DELETE)

    (event,) = decide(state, Complete(LINES))

    assert isinstance(event, CheckpointRegistered)


def test_a_reclaimed_registration_is_not_completed() -> None:
    assert decide(after(REGISTER, DELETE, Reclaim()), Complete(LINES)) == []


COMMANDS = st.one_of(
    st.just(Complete(LINES)),
    st.just(Fail("broken")),
    st.builds(Delete, st.just(CKPT), st.sampled_from([ORG, OTHER]), st.sampled_from(["", "2"])),
    st.builds(TakeHold, st.just(CKPT), st.sampled_from([ORG, OTHER]), st.sampled_from(HOLDERS)),
    st.builds(ReleaseHold, st.sampled_from(HOLDERS)),
    st.just(Reclaim()),
)


def _play(commands: list[Command]) -> tuple[Checkpoint, list[Event]]:
    """Carry out commands, those that are refused changing nothing."""
    history = decide(None, REGISTER)
    state = reduce(evolve, history, None)
    for command in commands:
        try:
            events = decide(state, command)
        except DomainError:
            continue
        state = reduce(evolve, events, state)
        history += events
    assert state is not None
    return state, history


@given(st.lists(COMMANDS, max_size=30))
def test_bytes_are_never_given_up_while_somebody_holds_them(commands: list[Command]) -> None:
    _, history = _play(commands)

    held: set[str] = set()
    reclaimed = False
    for event in history:
        match event:
            case HoldTaken():
                assert not reclaimed
                held.add(event.holder_id)
            case HoldReleased():
                held.remove(event.holder_id)
            case CheckpointReclaimed():
                assert not held
                assert not reclaimed
                reclaimed = True
            case _:
                pass


@given(st.lists(COMMANDS, max_size=30))
def test_bytes_are_given_up_in_the_end_once_deleted_and_let_go(commands: list[Command]) -> None:
    state, _ = _play(commands)
    if not state.deleted:
        state = reduce(evolve, decide(state, DELETE), state)
    for holder in state.holders:
        state = reduce(evolve, decide(state, ReleaseHold(holder)), state)

    events = decide(state, Reclaim())

    assert reduce(evolve, events, state).reclaimed


@given(st.lists(COMMANDS, max_size=30))
def test_the_record_tells_what_the_state_is(commands: list[Command]) -> None:
    state, history = _play(commands)
    shown: pb.Checkpoint | None = None
    for second, event in enumerate(history):
        shown = record.fold(shown, event, Timestamp(seconds=second))

    assert shown is not None
    assert shown.etag == state.etag
    assert record.is_hidden(shown) == (state.deleted or state.reclaimed)
    assert (shown.state == pb.Checkpoint.STATE_RECLAIMED) == state.reclaimed
    assert shown.state_reason == state.failure
    assert bool(shown.digest) == any(isinstance(event, CheckpointRegistered) for event in history)
    deleted = [second for second, e in enumerate(history) if isinstance(e, CheckpointDeleted)]
    assert len(deleted) <= 1
    seen = [i for i, e in enumerate(history) if not isinstance(e, HoldTaken | HoldReleased)]
    assert shown.update_time.seconds == seen[-1]
    assert shown.create_time.seconds == 0


def test_announced_hashes_are_not_shown_before_the_files_were_hashed() -> None:
    command = Register(
        CKPT, ORG, "bot", "file:///bot", CONTENTS, expected_sha256={"config.json": "a" * 64}
    )

    shown = record.fold(None, decide(None, command)[0], Timestamp())

    assert [file.sha256 for file in shown.files] == ["", ""]
