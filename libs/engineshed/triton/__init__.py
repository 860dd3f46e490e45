"""Triton Inference Server: finding it, starting it, loading a model; and what an engine is.

Whoever starts Triton does this:

    installation = find_triton()                                         # .installation
    backends = prepare_backends(installation, state / "triton")
    command = server_command(installation, repository, Ports.free(), backends)  # .launch
    process = await asyncio.create_subprocess_exec(*command.argv, env=command.env, …)
    await wait_until_live(command.ports.http, timeout_secs=…)            # .control
    await load_model(command.ports.http, MODEL_NAME, timeout_secs=…)
    await infer(Streams(command.ports.grpc), request, timeout_secs=…, take=…)  # .infer, .streams

The server listens on loopback only and dies with the process that started it.
What there is to know about the engine in it stands in its engine.json (.engine).
"""
