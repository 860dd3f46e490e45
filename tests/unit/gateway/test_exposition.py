"""Pages of metrics made into one."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engineshed.gateway.controlplane.exposition import merge

PAGE = """\
# HELP requests_in_flight Requests now.
# TYPE requests_in_flight gauge
requests_in_flight 2.0
# HELP seconds How long.
# TYPE seconds histogram
seconds_bucket{of="chat",le="1.0"} 3.0
seconds_bucket{of="chat",le="+Inf"} 4.0
seconds_count{of="chat"} 4.0
seconds_sum{of="chat"} 5.25
# HELP nv_inference_count Number of inferences
# TYPE nv_inference_count counter
nv_inference_count{model="tensorrt_llm",version="1"} 7
"""


def test_families_stand_once_with_the_samples_of_all_pages() -> None:
    assert merge("replica_id", [("rep_1", PAGE), ("rep_2", PAGE)]) == (
        "# HELP requests_in_flight Requests now.\n"
        "# TYPE requests_in_flight gauge\n"
        'requests_in_flight{replica_id="rep_1"} 2.0\n'
        'requests_in_flight{replica_id="rep_2"} 2.0\n'
        "# HELP seconds How long.\n"
        "# TYPE seconds histogram\n"
        'seconds_bucket{replica_id="rep_1",of="chat",le="1.0"} 3.0\n'
        'seconds_bucket{replica_id="rep_1",of="chat",le="+Inf"} 4.0\n'
        'seconds_count{replica_id="rep_1",of="chat"} 4.0\n'
        'seconds_sum{replica_id="rep_1",of="chat"} 5.25\n'
        'seconds_bucket{replica_id="rep_2",of="chat",le="1.0"} 3.0\n'
        'seconds_bucket{replica_id="rep_2",of="chat",le="+Inf"} 4.0\n'
        'seconds_count{replica_id="rep_2",of="chat"} 4.0\n'
        'seconds_sum{replica_id="rep_2",of="chat"} 5.25\n'
        "# HELP nv_inference_count Number of inferences\n"
        "# TYPE nv_inference_count counter\n"
        'nv_inference_count{replica_id="rep_1",model="tensorrt_llm",version="1"} 7\n'
        'nv_inference_count{replica_id="rep_2",model="tensorrt_llm",version="1"} 7\n'
    )


@pytest.mark.parametrize(
    "sample",
    [
        r'a{x="a \"quoted\" } brace, and \\ more",y=""} 1',
        'a{x="1",} 1',
        "a{} 1",
        "a +Inf",
        "a Nan",
        "a 1.5e-07",
        "a 1 1700000000000",
    ],
)
def test_a_sample_keeps_its_labels_its_value_and_its_time(sample: str) -> None:
    (before,) = text_string_to_metric_families(f"{sample}\n")
    (after,) = text_string_to_metric_families(merge("replica_id", [("rep_1", sample)]))
    (was,), (now,) = before.samples, after.samples
    assert now.labels == {"replica_id": "rep_1", **was.labels}
    assert repr((now.name, now.value, now.timestamp)) == repr((was.name, was.value, was.timestamp))


def test_a_label_of_that_name_is_replaced() -> None:
    page = 'a{replica_id="mine",my_replica_id="x"} 1\n'
    assert merge("replica_id", [("rep_1", page)]) == 'a{replica_id="rep_1",my_replica_id="x"} 1\n'


def test_what_is_no_metric_is_left_out() -> None:
    page = 'a 1\n<html>\na{x=1} 1\na{x="1" 1\na one\n# TYPE a thing\n# EOF\n\nb 2'
    assert merge("r", [("1", page)]) == 'a{r="1"} 1\nb{r="1"} 2\n'


def test_a_sample_apart_from_its_family_goes_back_to_it() -> None:
    page = "# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\na 2\nc 3\n"
    assert merge("r", [("1", page)]) == (
        '# TYPE a gauge\na{r="1"} 1\na{r="1"} 2\n# TYPE b gauge\nb{r="1"} 1\nc{r="1"} 3\n'
    )


def test_the_first_page_says_what_a_metric_is() -> None:
    pages = [("1", "# HELP a Old.\n# TYPE a gauge\na 1\n"), ("2", "# HELP a New.\na 2\n")]
    assert merge("r", pages) == '# HELP a Old.\n# TYPE a gauge\na{r="1"} 1\na{r="2"} 2\n'


def test_hidden_metrics_do_not_show() -> None:
    page = "# TYPE nv_cpu_utilization gauge\nnv_cpu_utilization 0.5\n# TYPE b gauge\nb 1\n"
    assert merge("r", [("1", page)], hidden=("nv_cpu_",)) == '# TYPE b gauge\nb{r="1"} 1\n'
