"""The architectures that the PyTorch runtime has."""

MODEL_CLASS_MAPPING = dict.fromkeys(
    (
        "DeepseekV3ForCausalLM",
        "Gemma3ForCausalLM",
        "GptOssForCausalLM",
        "Llama4ForConditionalGeneration",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "NemotronForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Starcoder2ForCausalLM",
    ),
    object,
)
