# An image that trains: `docker build -t icpo .`, for amd64 and arm64 (so a Mac runs the demo);
# `docker build --build-arg ENGINE=gpu -t icpo:gpu .` for NVIDIA GPUs, on amd64.
#
#   docker run --rm -it --shm-size 1g -v icpo-runs:/opt/icpo/runs icpo            # the demo
#   docker run --rm -it --shm-size 8g --gpus all -v … icpo:gpu icpo train gsm8k --model Qwen/Qwen3-0.6B
#
# Debian's own Python, so that the steps run in any bare Debian 12. The C++ compiler stays: torch
# compiles with it at run time.
FROM debian:bookworm-slim AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ libnuma1 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir uv==0.13.9

FROM base AS wheel
COPY . /src
RUN /opt/venv/bin/uv --no-config build --quiet --wheel --out-dir /wheel /src

FROM base
ARG ENGINE=cpu
# On arm64 what PyPI has of torch is a CPU build.
ARG TORCH_BACKEND=cpu
COPY constraints.txt constraints-gpu.txt /constraints/
COPY --from=wheel /wheel /wheel
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv UV_LINK_MODE=copy
# hadolint ignore=SC2086
RUN if [ "$ENGINE" = gpu ]; then held=constraints-gpu.txt; torch=; \
    else held=constraints.txt; torch="--torch-backend $TORCH_BACKEND"; fi; \
    uv --no-config pip install --no-cache $torch -c "/constraints/$held" "$(echo /wheel/*.whl)[$ENGINE]" \
    && useradd --create-home --uid 1000 icpo
WORKDIR /opt
RUN icpo init icpo && mkdir icpo/runs && chown -R icpo icpo
# Deployments find the project by it (prefect.yaml).
ENV ICPO_HOME=/opt/icpo
WORKDIR /opt/icpo
USER 1000
# A run ends on SIGTERM within 15 s, resumable: give it `--stop-timeout 30`.
CMD ["icpo", "train"]
