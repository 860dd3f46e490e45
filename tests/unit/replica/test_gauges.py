from engineshed.replica.gauges import Gauges, read_gauges

PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tensorrt_llm",version="1"} 3
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 5
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 7
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m",version="1"} 0.25
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m",version="1"} 32
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m",version="1"} 1000
nv_trt_llm_general_metrics{general_type="iteration_counter",model="m",version="1"} 12345
"""


def test_an_engine_tells_how_busy_it_is() -> None:
    assert read_gauges(PAGE) == Gauges(
        waiting=2, running=5, kv_cache_used=0.25, kv_cache_tokens=32_000, iteration=12345
    )


def test_one_that_tells_nothing_has_nothing_to_show() -> None:
    assert read_gauges("") == Gauges()
    assert read_gauges('nv_inference_count{model="m",version="1"} 3\n') == Gauges()
