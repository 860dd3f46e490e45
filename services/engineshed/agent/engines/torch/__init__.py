"""The `torch` back end: anything transformers can load, on anything PyTorch runs on.

In the agent:            backend (the interface), checkpoint (what can be told without PyTorch).
In the build's process:  build, loading, selfcheck.
In Triton's stub:        runtime (the model), decoders: continuous or sequential; sampling.

The agent imports none of the latter two.
"""
