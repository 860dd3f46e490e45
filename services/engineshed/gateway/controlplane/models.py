"""Bodies of requests. Their rules about values are the services'; here are names and types."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class Body(BaseModel):
    """A JSON object whose fields are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)


Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Scaling(Body):
    """How many replicas an endpoint has."""

    min_replicas: Count | None = Field(None, description="Reserved and always there.")
    max_replicas: Count | None = Field(None, description="What load may add up to.")


class Serving(Body):
    """How the model is served; what is not given is the flavor's."""

    max_context: Count | None = Field(None, description="Longest prompt and answer, in tokens.")
    precision: str | None = Field(None, description="float32, bfloat16 or float16.")
    quantization: str | None = Field(None, description="For example fp8.")


class CreateEndpoint(Body):
    """A new endpoint, from a template (model_name) or straight from a checkpoint."""

    name: str = Field(description="What you call it.")
    description: str = Field("", description="Your text about it.")
    model_name: str | None = Field(None, description="A template's model; see …/templates.")
    flavor_name: str | None = Field(None, description="The template's variant.")
    checkpoint_id: str | None = Field(None, description="What to serve: ckpt_….")
    gpu_type: str | None = Field(None, description="For example h100-sxm or cpu.")
    gpu_count: Count | None = Field(None, description="GPUs of each replica.")
    region: str | None = Field(None, description="Where to run; it never changes.")
    scaling: Scaling | None = Field(None, description="Default: one replica.")
    serving: Serving | None = Field(None, description="Default: the flavor's.")


class UpdateEndpoint(Body):
    """What to change; what is not given stays."""

    name: str = Field("", description="What you call it.")
    description: str = Field("", description="Your text about it.")
    enabled: bool = Field(True, description="false stops it, true restarts it.")
    scaling: Scaling = Field(default_factory=lambda: Scaling(), description="Replica bounds.")
    region: str = Field("", description="Cannot be changed.")
    gpu_type: str = Field("", description="Cannot be changed yet.")
    gpu_count: Count = Field(0, description="Cannot be changed yet.")
    checkpoint_id: str = Field("", description="Cannot be changed yet.")
    routing_key: str = Field("", description="Cannot be changed.")


class CreateCheckpoint(Body):
    """A checkpoint to register."""

    name: str = Field(description="What you call it.")
    uri: str = Field(description="Where it is, for example file:///models/support-bot.")
    base_model: str = Field("", description="The model it was tuned from.")
    digest: str = Field("", description="Refuse it unless it has this identity: sha256:….")
    sha256: dict[str, str] = Field(
        default_factory=dict, description="Hashes that files must have, by path."
    )


class CreateToken(Body):
    """A new API token."""

    name: str = Field(description="What it is for.")
    scopes: list[str] = Field(description="For example inference, endpoints:read, admin.")
    expires_at: Annotated[AwareDatetime | None, Field(strict=False)] = Field(
        None, description="When it ends by itself."
    )
    org_id: str = Field("", description="For operators: another organization.")


class CreateOrganization(Body):
    """A new organization."""

    slug: str = Field(description="Its short name.")
