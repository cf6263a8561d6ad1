# The image of all jobs and of the service: docker build --tag skipwise .
# With GPUs: docker build --build-arg DEVICE=gpu --tag skipwise:gpu . (CUDA's libraries come with the packages; the host has the driver)
# There Triton needs gcc to start a kernel.
FROM debian:bookworm-slim
ARG DEVICE=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN apt-get update && \
    apt-get install --yes --no-install-recommends ca-certificates make python3.11 python3.11-venv \
        $(test $DEVICE = cpu || echo gcc libc6-dev python3.11-dev) && \
    rm -rf /var/lib/apt/lists/*
# TorchX reads .torchxconfig, and the shell components/torchrun.bash, from the working directory.
WORKDIR /opt/skipwise
COPY . .
RUN make extras DEVICE=$DEVICE TORCH_INDEX=$TORCH_INDEX PIP_ARGS=--no-cache-dir
USER 65534:65534
EXPOSE 8000
CMD ["skipwise", "--help"]
