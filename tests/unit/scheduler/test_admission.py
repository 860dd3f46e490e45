"""What can be had at all, and what a refusal says."""

from dataclasses import replace

import pytest

from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as api
from engineshed.errors import DomainError, InvalidFieldError, Kind
from engineshed.scheduler.domain.admission import Admitted, Offer, admit, template_name
from engineshed.scheduler.domain.errors import (
    ExceedsFleetError,
    NotInTemplateError,
    UnknownGpuTypeError,
    UnknownRegionError,
)
from engineshed.scheduler.domain.memory import Hardware
from engineshed.scheduler.domain.replica import Serving
from engineshed.scheduler.domain.scaling import Scaling

TORCH = frozenset({"torch"})
CUSTOM = Template(model_name="custom", flavors=[Flavor(flavor_name="base")])
CPU = Offer("local", "cpu", TORCH, gpu_count=4, nodes=1)
H100 = Offer("local", "h100-sxm", TORCH, gpu_count=8, nodes=2)
H200 = Offer("eu-west1", "h200-sxm", TORCH | {"tensorrt_llm"}, gpu_count=8, nodes=1)


def asked(**fields: object) -> api.CreateEndpointRequest:
    values: dict[str, object] = {"name": "bot", "checkpoint_id": "ckpt_1", **fields}
    return api.CreateEndpointRequest(**values)  # type: ignore[arg-type]  # protobuf checks them


def admitted(
    request: api.CreateEndpointRequest,
    *offers: Offer,
    template: Template = CUSTOM,
) -> Admitted:
    return admit(request, template, offers or (CPU,), most_gpus=8)


def test_defaults_are_filled_in_where_there_is_one_choice() -> None:
    assert admitted(asked()) == Admitted(
        "custom",
        "base",
        "ckpt_1",
        "cpu",
        1,
        "local",
        Scaling(1, 1),
        Serving(),
        Hardware("cpu", 1, 0, (1, 2, 4), TORCH),
    )


@pytest.mark.parametrize(("offers", "field"), [((CPU, H200), "region"), ((CPU, H100), "gpu_type")])
def test_where_there_are_several_choices_they_are_named(
    offers: tuple[Offer, ...], field: str
) -> None:
    with pytest.raises(InvalidFieldError, match="must be given; valid: ") as refused:
        admitted(asked(), *offers)
    assert refused.value.fields[0].field == field


def test_an_unknown_gpu_type_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(UnknownGpuTypeError, match="valid: cpu, h100-sxm") as refused:
        admitted(asked(gpu_type="b200"), CPU, H100)
    assert refused.value.kind is Kind.INVALID
    assert refused.value.facts["gpu_types"] == "cpu,h100-sxm"


def test_a_gpu_type_of_another_region_is_unknown_here() -> None:
    with pytest.raises(UnknownGpuTypeError):
        admitted(asked(region="local", gpu_type="h200-sxm"), CPU, H200)


def test_an_unknown_region_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(UnknownRegionError, match="valid: eu-west1, local"):
        admitted(asked(region="mars"), CPU, H200)


def test_a_fleet_without_nodes_says_so() -> None:
    with pytest.raises(DomainError, match="no node that offers one has joined yet"):
        admit(asked(region="local"), CUSTOM, [], most_gpus=8)


def test_too_many_gpus_for_a_replica_are_invalid() -> None:
    with pytest.raises(InvalidFieldError, match="must be at most 8; it is 9"):
        admitted(asked(gpu_count=9))


def test_more_gpus_than_any_node_has_exceed_the_fleet() -> None:
    with pytest.raises(ExceedsFleetError, match="no known node has 5 cpu GPUs") as refused:
        admitted(asked(gpu_count=5))
    assert refused.value.kind is Kind.REFUSED


def test_more_replicas_than_an_empty_fleet_could_hold_exceed_it() -> None:
    three = api.Scaling(min_replicas=3, max_replicas=3)
    assert admitted(asked(gpu_type="h100-sxm", gpu_count=4, scaling=three), CPU, H100)
    with pytest.raises(ExceedsFleetError, match="never hold more than 2 replicas"):
        admitted(asked(gpu_type="h100-sxm", gpu_count=5, scaling=three), CPU, H100)


@pytest.mark.parametrize(
    ("scaling", "field"),
    [
        (api.Scaling(min_replicas=0, max_replicas=0), "scaling.max_replicas"),
        (api.Scaling(min_replicas=2, max_replicas=1), "scaling.max_replicas"),
        (api.Scaling(min_replicas=1), "scaling.max_replicas"),
    ],
)
def test_bounds_that_make_no_sense_are_named(scaling: api.Scaling, field: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        admitted(asked(scaling=scaling))
    assert refused.value.fields[0].field == field


@pytest.mark.parametrize(("name", "value"), [("quantization", "fp8"), ("max_batch_tokens", 512)])
def test_what_engines_are_built_for_needs_a_back_end_that_builds_them(
    name: str, value: str | int
) -> None:
    serving = api.ServingParameters(**{name: value})  # type: ignore[arg-type]  # protobuf checks it
    with pytest.raises(InvalidFieldError) as refused:
        admitted(asked(serving=serving))
    assert refused.value.fields[0].field == f"serving.{name}"
    assert refused.value.fields[0].message == (
        f"{value} needs the back end tensorrt_llm, which no cpu node in local offers; "
        "leave it out, or choose other GPUs"
    )
    assert getattr(admitted(asked(serving=serving), H200).serving, name) == value


def test_any_back_end_takes_a_size_of_batches_and_of_the_pool() -> None:
    serving = api.ServingParameters(max_batch_size=8, kv_cache_fraction=0.5)
    assert admitted(asked(serving=serving)).serving == Serving(
        max_batch_size=8, kv_cache_fraction=0.5
    )


def test_a_request_names_a_template_or_a_checkpoint() -> None:
    assert template_name(asked()) == "custom"
    assert template_name(asked(model_name="acme/bot")) == "acme/bot"
    with pytest.raises(InvalidFieldError):
        template_name(asked(checkpoint_id=""))


def test_a_template_without_a_checkpoint_needs_one() -> None:
    with pytest.raises(InvalidFieldError) as refused:
        admitted(asked(model_name="custom", checkpoint_id=""))
    assert refused.value.fields[0].field == "checkpoint_id"


class TestTemplates:
    TEMPLATE = Template(
        model_name="acme/bot",
        checkpoint_id="ckpt_behind",
        flavors=[
            Flavor(
                flavor_name="base",
                max_context=4096,
                precision="float32",
                gpu_types=["cpu", "h100-sxm"],
                gpu_counts=[1, 2],
                regions=["local"],
            ),
            Flavor(
                flavor_name="fast", precision="bfloat16", max_batch_size=64, kv_cache_fraction=0.5
            ),
        ],
    )

    def test_the_fewest_gpus_that_it_allows_are_the_default(self) -> None:
        large = Template(
            model_name="acme/large",
            checkpoint_id="ckpt_behind",
            flavors=[Flavor(flavor_name="base", gpu_counts=[8, 4])],
        )
        request = asked(gpu_type="h100-sxm", checkpoint_id="")
        assert admitted(request, H100, template=large).gpu_count == 4

    def test_what_no_node_has_is_answered_with_what_nodes_have_and_it_allows(self) -> None:
        request = asked(gpu_type="h100-sxm", checkpoint_id="")
        with pytest.raises(UnknownGpuTypeError) as refused:
            admitted(request, CPU, replace(H200, region="local"), template=self.TEMPLATE)
        assert refused.value.facts["gpu_types"] == "cpu"

    def test_its_checkpoint_and_first_flavor_are_the_defaults(self) -> None:
        result = admitted(asked(checkpoint_id=""), template=self.TEMPLATE)
        assert (result.checkpoint_id, result.flavor_name) == ("ckpt_behind", "base")
        assert result.serving == Serving(4096, "float32", "")

    def test_serving_parameters_are_overridden_field_by_field(self) -> None:
        serving = api.ServingParameters(max_context=512)
        result = admitted(asked(serving=serving), template=self.TEMPLATE)
        assert result.serving == Serving(512, "float32", "")

    def test_batch_and_cache_are_the_flavors_unless_said(self) -> None:
        serving = api.ServingParameters(max_batch_size=8)
        request = asked(flavor_name="fast", serving=serving)
        result = admitted(request, template=self.TEMPLATE).serving
        assert (result.max_batch_size, result.kv_cache_fraction) == (8, 0.5)

    @pytest.mark.parametrize(
        ("fields", "allowed"),
        [
            ({"flavor_name": "slow"}, "valid: base, fast"),
            ({"gpu_type": "h200-sxm", "region": "local"}, "valid: cpu, h100-sxm"),
            ({"gpu_count": 4, "gpu_type": "cpu"}, "valid: 1, 2"),
            ({"region": "eu-west1"}, "valid: local"),
        ],
    )
    def test_combinations_outside_it_are_refused_with_the_valid_ones(
        self, fields: dict[str, object], allowed: str
    ) -> None:
        with pytest.raises(NotInTemplateError, match=allowed) as refused:
            admitted(asked(**fields), CPU, H100, H200, template=self.TEMPLATE)
        assert refused.value.kind is Kind.INVALID

    def test_its_regions_narrow_the_choice(self) -> None:
        assert admitted(asked(), CPU, H200, template=self.TEMPLATE).region == "local"
