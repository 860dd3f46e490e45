"""`python -m engineshed.agent doctor`: what this host and its image can do, without a stack.

`command` puts it together. `gpus`, `software` and `resources` look at the host, each look with a
deadline (`looking`), so that a driver that hangs costs its own lines and no others. What is found
goes through the agent's `domain.doctor`, which knows what it means, and is printed by `table`.

Nothing here imports a machine learning library: PyTorch is asked in a process of its own.
"""
