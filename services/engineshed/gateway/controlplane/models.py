"""Bodies of requests. Their rules about values are the services'; here are names and types."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engineshed.gateway.controlplane.parameters import Moment


class Body(BaseModel):
    """A JSON object whose fields are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _whole(text: str) -> str:
    """Refuse a lone surrogate, which JSON can write but no text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no character") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
# As in the services' messages; said here too, so that the description has it.
IdleSeconds = Annotated[float, Field(ge=1, le=7 * 24 * 3600, allow_inf_nan=False)]
WakeSeconds = Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
BatchTokens = Annotated[int, Field(ge=1, le=1_000_000)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Several = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Scaling(Body):
    """How many replicas an endpoint has, and when it has none."""

    min_replicas: Count = Field(
        1,
        description="Reserved and always there. 0: none while nobody uses it; the next request "
        "wakes it.",
    )
    max_replicas: Count = Field(
        1, description="What load may add up to; default: min_replicas, but at least 1."
    )
    idle_after: IdleSeconds | None = Field(
        None,
        description="Seconds without a request after which the last replica goes, when "
        "min_replicas is 0; null: 300.",
    )
    wake_timeout: WakeSeconds | None = Field(
        None,
        description="Seconds for which a request to an endpoint without replicas is held until one "
        "is ready, when min_replicas is 0; then it is answered 503. null: 60; 0: it is not held.",
    )


class Serving(Body):
    """How the model is served; what is not given is the flavor's."""

    max_context: Several | None = Field(None, description="Longest prompt and answer, in tokens.")
    precision: Text | None = Field(None, description="float32, bfloat16 or float16.")
    quantization: Text | None = Field(
        None,
        description="How weights are made smaller: fp8, int8_sq, int8_wo, int4_awq, w4a8_awq or "
        "nvfp4. It needs TensorRT-LLM.",
    )
    max_batch_size: BatchSize | None = Field(
        None,
        description="Requests that the engine works on at once; others wait for one to end. "
        "null: as the back end likes.",
    )
    max_batch_tokens: BatchTokens | None = Field(
        None,
        description="Tokens, of prompts and answers, that one step of the engine takes. It needs "
        "TensorRT-LLM. null: as the back end likes.",
    )
    kv_cache_fraction: Fraction | None = Field(
        None,
        description="The share that keys and values take of the GPU memory that is free once the "
        "engine is loaded, above 0 to 1. null: as the back end likes.",
    )


class CreateEndpoint(Body):
    """A new endpoint, from a template (model_name) or straight from a checkpoint."""

    name: Text = Field(description="What you call it.")
    description: Text = Field("", description="Your text about it.")
    model_name: Text | None = Field(None, description="A template's model; see …/templates.")
    flavor_name: Text | None = Field(None, description="The template's variant.")
    checkpoint_id: Text | None = Field(None, description="What to serve: ckpt_….")
    gpu_type: Text | None = Field(None, description="For example h100-sxm or cpu.")
    gpu_count: Several | None = Field(None, description="GPUs of each replica.")
    region: Text | None = Field(None, description="Where to run; it never changes.")
    scaling: Scaling | None = Field(None, description="Default: one replica.")
    serving: Serving | None = Field(None, description="Default: the flavor's.")
    on_no_capacity: Literal["queue", "fail"] = Field(
        "queue",
        description="When not all of min_replicas can be placed now: let it queue, or refuse it.",
    )


class UpdateEndpoint(Body):
    """What to change; what is not given stays."""

    name: Text = Field("", description="What you call it.")
    description: Text = Field("", description="Your text about it.")
    enabled: bool = Field(True, description="false stops it, true restarts it.")
    scaling: Scaling = Field(default_factory=lambda: Scaling(), description="Replica bounds.")
    checkpoint_id: Text = Field("", description="What to serve, registered: ckpt_….")
    gpu_type: Text = Field("", description="For example h100-sxm or cpu.")
    gpu_count: Several = Field(1, description="GPUs of each replica.")
    serving: Serving = Field(
        default_factory=lambda: Serving(),
        description="How the model is served; null: as the flavor says.",
    )
    update_strategy: Literal["surge", "recreate"] = Field(
        "surge",
        description="How replicas are replaced when checkpoint, GPUs or serving change: surge "
        "starts one more and drains an old one when it is ready; recreate stops the old ones "
        "first.",
    )
    region: Text = Field("", description="Cannot be changed.")
    routing_key: Text = Field("", description="Cannot be changed.")


class Because(Body):
    """Why something is done."""

    reason: Text = Field("", description="For people.")


class CreateCheckpoint(Body):
    """A checkpoint to register."""

    name: Text = Field(description="What you call it.")
    uri: Text = Field(description="Where it is, for example file:///models/support-bot.")
    base_model: Text = Field("", description="The model it was tuned from.")
    digest: Text = Field("", description="Refuse it unless it has this identity: sha256:….")
    sha256: dict[Text, Text] = Field(
        default_factory=dict, description="Hashes that files must have, by path."
    )


class CreateToken(Body):
    """A new API token."""

    name: Text = Field(description="What it is for.")
    scopes: list[Text] = Field(description="For example inference, endpoints:read, admin.")
    expires_at: Annotated[Moment | None, Field(strict=False)] = Field(
        None, description="When it ends by itself."
    )
    org_id: Text = Field("", description="For operators: another organization.")


class CreateOrganization(Body):
    """A new organization."""

    slug: Text = Field(description="Its short name.")
