"""From a directory to a checkpoint of the platform's own."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from engineshed.api.catalog.v1.checkpoint_service_pb2 import (
    Checkpoint,
    DeleteCheckpointRequest,
    ListCheckpointsRequest,
)
from engineshed.runtime import to_timestamp, utc_now

from .conftest import Caller, Catalog, eventually, refused
from .models import CONFIG, safetensors, write_model, write_sparse

Model = Callable[..., Path]


async def test_a_directory_becomes_a_read_only_copy_with_a_manifest(
    admin: Caller, catalog: Catalog, model: Model
) -> None:
    source = model()
    before = {path.name: path.read_bytes() for path in source.iterdir()}

    begun = await admin.register(source)
    record = await admin.settled(begun.checkpoint_id)

    assert begun.state == Checkpoint.STATE_REGISTERING
    assert record.state == Checkpoint.STATE_REGISTERED, record.state_reason
    assert record.architecture == "LlamaForCausalLM"
    assert record.parameter_count == 24
    assert record.dtype == "float32"
    assert record.max_position_embeddings == 512
    assert begun.shape == record.shape
    assert record.shape.weight_bytes == 24 * 4
    assert (record.shape.attending_layers, record.shape.kv_heads, record.shape.head_dim) == (
        2,
        4,
        8,
    )
    assert record.has_chat_template
    assert record.base_model == "acme/base"
    assert record.progress.done_bytes == record.progress.total_bytes == record.size_bytes
    copy = catalog.state_dir / "artifacts" / record.location
    assert {path.name for path in copy.iterdir()} == {*before, "manifest.json"} - {"modeling.py"}
    for line in record.files:
        content = (copy / line.path).read_bytes()
        assert content == before[line.path]
        assert line.sha256 == hashlib.sha256(content).hexdigest()
        assert line.size_bytes == len(content)
        assert stat.S_IMODE((copy / line.path).stat().st_mode) == 0o444
    assert stat.S_IMODE(copy.stat().st_mode) == 0o555
    manifest = (copy / "manifest.json").read_bytes()
    assert record.digest == "sha256:" + hashlib.sha256(manifest).hexdigest()
    assert [line["path"] for line in json.loads(manifest)] == sorted(
        before.keys() - {"modeling.py"}
    )
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


async def test_shards_are_found_through_their_index(admin: Caller, model: Model) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "part/model-2.safetensors"}}
    source = model(
        model__safetensors=None, model__safetensors__index__json=json.dumps(index).encode()
    )
    (source / "model-1.safetensors").write_bytes(safetensors({"a": [3]}))
    (source / "part").mkdir()
    (source / "part" / "model-2.safetensors").write_bytes(safetensors({"b": [5]}))

    record = await admin.settled((await admin.register(source)).checkpoint_id)

    assert record.state == Checkpoint.STATE_REGISTERED, record.state_reason
    assert record.parameter_count == 8
    assert "part/model-2.safetensors" in [file.path for file in record.files]


async def test_the_same_files_have_the_same_digest(admin: Caller, model: Model) -> None:
    first = await admin.settled((await admin.register(model())).checkpoint_id)
    second = await admin.settled((await admin.register(model())).checkpoint_id)
    other = await admin.settled(
        (await admin.register(model(tokenizer__json=b'{"model": 1}'))).checkpoint_id
    )

    assert first.digest == second.digest != other.digest


async def test_pickles_beside_safetensors_are_left_behind(admin: Caller, model: Model) -> None:
    record = await admin.register(model(pytorch_model__bin=b"\x80\x04"))

    assert "pytorch_model.bin" not in [file.path for file in record.files]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config__json": None}, "config.json is missing"),
        ({"config__json": b"{"}, "config.json: it is not valid JSON"),
        ({"config__json": json.dumps({**CONFIG, "architectures": []}).encode()}, "architectures"),
        ({"tokenizer__json": None}, "no tokenizer"),
        ({"tokenizer__json": b'{"model": {'}, "tokenizer.json"),
        ({"tokenizer_config__json": b"{"}, "tokenizer_config.json"),
        ({"model__safetensors": None}, "no *.safetensors"),
        ({"model__safetensors": None, "pytorch_model__bin": b"\x80"}, "save_pretrained"),
        ({"model__safetensors": safetensors({"a": [100]})[:-1]}, "is truncated"),
        ({"model__safetensors": b""}, "is truncated"),
        ({"model__safetensors": b"not weights at all"}, "safetensors at all"),
        ({"model__safetensors": safetensors({})}, "no weights"),
        ({"model__safetensors": safetensors({"a": [0]})}, "no weights"),
        ({"adapter_config__json": b"{}"}, "merge it"),
        (
            {
                "model__safetensors": None,
                "model__safetensors__index__json": b'{"weight_map": {"a": "gone.safetensors"}}',
            },
            "gone.safetensors is missing",
        ),
        (
            {
                "model__safetensors": None,
                "model__safetensors__index__json": b'{"weight_map": {"c": "x.safetensors"}}',
                "x__safetensors": safetensors({"a": [1]}),
            },
            "'c'",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused_at_once_and_leaves_nothing(
    admin: Caller, model: Model, changes: dict[str, bytes | None], told: str
) -> None:
    source = model(**changes)

    with refused("CHECKPOINT_INVALID") as errors:
        await admin.register(source)

    assert told in errors[0].message
    assert errors[0].fields[0].field == "uri"
    listed = await admin.checkpoints.ListCheckpoints(ListCheckpointsRequest())
    assert not listed.checkpoints


@pytest.mark.parametrize("special", ["fifo", "device", "folder", "socket"])
async def test_only_regular_files_are_opened(admin: Caller, model: Model, special: str) -> None:
    source = model(config__json=None)
    config = source / "config.json"
    match special:
        case "fifo":
            os.mkfifo(config)
        case "device":
            config.symlink_to("/dev/zero")
        case "folder":
            config.mkdir()
        case _:
            os.mknod(config, stat.S_IFSOCK | 0o600)

    # The device is outside the import root, which is told first.
    reason = "URI_NOT_ALLOWED" if special == "device" else "CHECKPOINT_INVALID"
    with refused(reason):
        await admin.register(source)


async def test_a_device_is_not_opened_for_an_operator_either(
    operator: Caller, model: Model
) -> None:
    source = model(config__json=None)
    (source / "config.json").symlink_to("/dev/zero")

    with refused("CHECKPOINT_INVALID") as errors:
        await operator.register(source)

    assert "not a regular file" in errors[0].message


async def test_a_file_where_a_directory_should_be_is_refused(admin: Caller, model: Model) -> None:
    with refused("CHECKPOINT_INVALID") as errors:
        await admin.register(model() / "config.json")
    assert "not a directory" in errors[0].message

    with refused("CHECKPOINT_INVALID") as errors:
        await admin.register(model() / "gone")
    assert "is missing" in errors[0].message


async def test_outside_the_import_roots_only_an_operator_may_register(
    admin: Caller, operator: Caller, tmp_path: Path
) -> None:
    source = write_model(tmp_path / "model")

    with refused("URI_NOT_ALLOWED") as there:
        await admin.register(source)
    with refused("URI_NOT_ALLOWED") as gone:
        await admin.register(tmp_path / "gone")
    record = await operator.register(source)

    assert there[0].message == gone[0].message  # nobody learns what else is on the host
    assert (await operator.settled(record.checkpoint_id)).state == Checkpoint.STATE_REGISTERED


@pytest.mark.parametrize("way_out", ["../../../etc", "link", "link/../.."])
async def test_no_path_leads_out_of_the_import_root(
    admin: Caller, catalog: Catalog, model: Model, tmp_path: Path, way_out: str
) -> None:
    source = model()
    (source / "link").symlink_to(tmp_path)

    with refused("URI_NOT_ALLOWED"):
        await admin.register(source, uri=f"{source.as_uri()}/{way_out}")


async def test_links_within_the_import_root_are_followed_and_others_refused(
    admin: Caller, catalog: Catalog, model: Model, tmp_path: Path
) -> None:
    blobs = model()
    cache = catalog.imports / f"{blobs.name}-snapshot"
    cache.mkdir()
    for path in blobs.iterdir():
        (cache / path.name).symlink_to(Path("..") / blobs.name / path.name)

    record = await admin.settled((await admin.register(cache)).checkpoint_id)
    assert record.state == Checkpoint.STATE_REGISTERED, record.state_reason

    outside = write_model(tmp_path / "outside")
    (cache / "README.md").unlink()
    (cache / "README.md").symlink_to(outside / "README.md")
    with refused("URI_NOT_ALLOWED") as there:
        await admin.register(cache)
    (outside / "README.md").unlink()
    with refused("URI_NOT_ALLOWED") as gone:
        await admin.register(cache)
    assert there[0].message == gone[0].message


async def test_the_platforms_own_files_cannot_be_registered(
    operator: Caller, catalog: Catalog, model: Model
) -> None:
    record = await operator.settled((await operator.register(model())).checkpoint_id)

    with refused("URI_NOT_ALLOWED"):
        await operator.register(catalog.state_dir / "artifacts" / record.location)
    source = model()
    (source / "LICENSE").symlink_to(catalog.state_dir / "admin.token")
    with refused("URI_NOT_ALLOWED"):
        await operator.register(source)


async def test_a_wrong_hash_fails_and_names_file_expected_and_found(
    admin: Caller, catalog: Catalog, model: Model
) -> None:
    source = model()
    found = hashlib.sha256((source / "config.json").read_bytes()).hexdigest()

    begun = await admin.register(source, sha256={"config.json": "f" * 64})
    record = await admin.settled(begun.checkpoint_id)

    assert record.state == Checkpoint.STATE_FAILED
    assert all(part in record.state_reason for part in ("config.json", "f" * 64, found))
    assert not _bytes_of(catalog, begun.checkpoint_id)


async def test_thousands_of_hashes_are_looked_at_at_once(admin: Caller, model: Model) -> None:
    hashes = {f"{number}.safetensors": "f" * 64 for number in range(10_000)}

    with refused("CHECKPOINT_INVALID"):  # those files are not there; it was in time to say so
        await admin.register(model(), sha256=hashes)
    with refused("INVALID_FIELD") as errors:
        await admin.register(model(), sha256={**hashes, "0.safetensors": "F" * 64})

    assert errors[0].fields[0].field == "sha256['0.safetensors']"


async def test_a_wrong_digest_fails_and_the_right_one_does_not(admin: Caller, model: Model) -> None:
    source = model()
    wrong = await admin.settled(
        (await admin.register(source, digest="sha256:" + "f" * 64)).checkpoint_id
    )
    assert wrong.state == Checkpoint.STATE_FAILED
    known = (await admin.settled((await admin.register(source)).checkpoint_id)).digest
    assert known in wrong.state_reason

    right = await admin.settled((await admin.register(source, digest=known)).checkpoint_id)

    assert right.state == Checkpoint.STATE_REGISTERED


async def test_a_hash_of_a_file_that_is_not_there_is_refused(admin: Caller, model: Model) -> None:
    with refused("CHECKPOINT_INVALID") as errors:
        await admin.register(model(), sha256={"gone.json": "f" * 64})

    assert errors[0].fields[0].field == "sha256['gone.json']"


async def test_no_room_fails_with_the_reason_and_leaves_nothing(
    operator: Caller, catalog: Catalog
) -> None:
    # From another file system: a reflink would take no room.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        source = write_model(Path(folder) / "model", model__safetensors=None)
        write_sparse(source / "model.safetensors", 8 * 2**40)

        record = await operator.settled((await operator.register(source)).checkpoint_id)

    assert record.state == Checkpoint.STATE_FAILED
    assert "No space left" in record.state_reason
    assert "model.safetensors" in record.state_reason
    assert not _bytes_of(catalog, record.checkpoint_id)


async def test_a_source_that_changes_meanwhile_fails(
    admin: Caller, catalog: Catalog, model: Model
) -> None:
    source = model(model__safetensors=None)
    write_sparse(source / "model.safetensors", 2**28)
    begun = await admin.register(source)
    with (source / "model.safetensors").open("r+b") as weights:
        weights.seek(0, os.SEEK_END)
        weights.write(b"!")

    record = await admin.settled(begun.checkpoint_id)

    assert record.state == Checkpoint.STATE_FAILED
    assert "model.safetensors changed" in record.state_reason
    assert not _bytes_of(catalog, begun.checkpoint_id)


async def test_progress_is_shown_while_copying(admin: Caller, model: Model) -> None:
    source = model(model__safetensors=None)
    write_sparse(source / "model.safetensors", 2**28)
    begun = await admin.register(source)
    assert begun.progress.total_bytes == begun.size_bytes > 2**28
    seen: list[int] = []

    async def done() -> bool:
        record = await admin.get(begun.checkpoint_id)
        seen.append(record.progress.done_bytes)
        return record.state != Checkpoint.STATE_REGISTERING

    await eventually(done)

    assert seen == sorted(seen)
    assert seen[-1] == begun.size_bytes
    assert len(set(seen)) > 2


async def test_a_repeated_request_returns_the_first_answer(admin: Caller, model: Model) -> None:
    source = model()
    first = await admin.register(source, request_id="r1")
    await admin.settled(first.checkpoint_id)
    (source / "config.json").unlink()  # it is not even looked at again

    again = await admin.register(source, request_id="r1")

    assert again.checkpoint_id == first.checkpoint_id
    assert again.state == Checkpoint.STATE_REGISTERING
    with refused("REQUEST_ID_REUSED"):
        await admin.register(source, request_id="r1", name="other")


async def test_lists_are_newest_first_page_by_page_and_without_files(
    admin: Caller, model: Model
) -> None:
    source = model()
    made = [(await admin.register(source, name=str(number))).checkpoint_id for number in range(5)]
    listed: list[str] = []
    token = ""
    while True:
        page = await admin.checkpoints.ListCheckpoints(
            ListCheckpointsRequest(page_size=2, page_token=token)
        )
        assert all(not record.files for record in page.checkpoints)
        listed += [record.checkpoint_id for record in page.checkpoints]
        token = page.next_page_token
        if not token:
            break

    assert listed == made[::-1]
    with refused("INVALID_FIELD"):
        await admin.checkpoints.ListCheckpoints(ListCheckpointsRequest(page_token="x"))


async def test_the_past_can_be_read(admin: Caller, model: Model) -> None:
    before = utc_now()
    checkpoint_id = (await admin.register(model())).checkpoint_id
    await admin.settled(checkpoint_id)
    registered = utc_now()
    await admin.checkpoints.DeleteCheckpoint(DeleteCheckpointRequest(checkpoint_id=checkpoint_id))

    with refused("CHECKPOINT_NOT_FOUND"):
        await admin.get(checkpoint_id)
    with refused("CHECKPOINT_NOT_FOUND"):
        await admin.get(checkpoint_id, as_of=to_timestamp(before))
    then = await admin.get(checkpoint_id, as_of=to_timestamp(registered))
    assert then.state == Checkpoint.STATE_REGISTERED
    assert then.digest


def _bytes_of(catalog: Catalog, checkpoint_id: str) -> list[Path]:
    return list(catalog.artifacts.glob(f"{checkpoint_id}*"))
