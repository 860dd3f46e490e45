# The agent of a GPU host, in NVIDIA's image of Triton with TensorRT-LLM:
#
#   docker build -f deploy/agent.Dockerfile -t engineshed-agent \
#     --build-arg TRITON_DIGEST=sha256:… .
#
# The digest pins what builds engines: it is part of their cache key. One that the tag has now says
# `docker buildx imagetools inspect nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3`. What the
# images after it have, and what the driver must be: docs/operations/gpu-hosts.md.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
ARG TRITON_DIGEST=
ARG AT=${TRITON_DIGEST:+@}

# Ours is an environment of its own, so that it changes nothing of what NVIDIA has put together.
FROM ${TRITON_IMAGE}${AT}${TRITON_DIGEST} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY libs libs
COPY services services
RUN python3 -m venv /opt/engineshed \
 && /opt/engineshed/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      -c constraints.txt ".[agent,replica,torch,s3,tracing]"

FROM ${TRITON_IMAGE}${AT}${TRITON_DIGEST}
ARG TRITON_DIGEST
COPY --from=build /opt/engineshed /opt/engineshed
ENV PATH=/opt/engineshed/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ENGINESHED_STATE_DIR=/var/lib/engineshed \
    ENGINESHED_IMAGE_DIGEST=$TRITON_DIGEST
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/engineshed
WORKDIR /var/lib/engineshed
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "engineshed.rpc.probe"]
# NVIDIA's entry point stays: it lets an older driver of a data centre GPU run a newer CUDA.
CMD ["python", "-m", "engineshed.agent"]
