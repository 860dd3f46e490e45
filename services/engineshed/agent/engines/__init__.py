"""Engine back ends: from a checkpoint to something Triton can load, and the cache of the results.

`interface` is what every back end implements, `checkpoint` tells what there is to build from,
`cache` keeps what was built, and each back end has a folder of its own. Nothing here imports a
machine learning library into the agent: a build runs in a process of its own.
"""
