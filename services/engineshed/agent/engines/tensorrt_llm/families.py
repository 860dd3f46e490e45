"""Which family's conversion script is for which architecture.

Families are the folders of TensorRT-LLM's examples (`models/*/<family>/convert_checkpoint.py`);
architectures are those of its MODEL_MAP that have keys and values in pages, as all that we build
has: Mamba and RecurrentGemma keep states instead and are left to others.
"""

from collections.abc import Mapping
from typing import Final

_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": (
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "ExaoneForCausalLM",
        "InternLMForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeForCausalLM",
        "ArcticForCausalLM",
        "SkyworkForCausalLM",
    ),
    "qwen": (
        "QWenLMHeadModel",
        "QWenForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
    ),
    "gpt": (
        "GPT2LMHeadModel",
        "GPTBigCodeForCausalLM",
        "Starcoder2ForCausalLM",
        "NemotronForCausalLM",
    ),
    "gemma": ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
    "phi": (
        "PhiForCausalLM",
        "Phi3ForCausalLM",
        "Phi3SmallForCausalLM",
        "PhiMoEForCausalLM",
    ),
    "internlm2": ("InternLM2ForCausalLM",),
    "commandr": ("CohereForCausalLM",),
    "gptj": ("GPTJForCausalLM",),
    "gptneox": ("GPTNeoXForCausalLM",),
    "opt": ("OPTForCausalLM",),
    "bloom": ("BloomForCausalLM",),
    "falcon": ("FalconForCausalLM", "RWForCausalLM"),
    "mpt": ("MPTForCausalLM", "MptForCausalLM"),
    "baichuan": ("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    "glm-4-9b": (
        "ChatGLMModel",
        "ChatGLMForCausalLM",
        "ChatGLMForConditionalGeneration",
        "GLMModel",
    ),
    "grok": ("Grok1ModelForCausalLM",),
    "dbrx": ("DbrxForCausalLM",),
    "deepseek_v1": ("DeepseekForCausalLM",),
    "deepseek_v2": ("DeepseekV2ForCausalLM",),
    "nemotron_nas": ("DeciLMForCausalLM",),
}

FAMILY_OF: Final[Mapping[str, str]] = {
    architecture: family
    for family, architectures in _FAMILIES.items()
    for architecture in architectures
}
"""The family of each architecture that an engine can be compiled for."""
