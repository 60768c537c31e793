# The worker for GPUs of NVIDIA. Builds where Docker is; the machine that builds needs no GPU.
#
#   docker build -f deploy/docker/worker-cuda.Dockerfile --build-arg COMPUTE_CAPABILITY=90 -t registry.example/mesh/worker-cuda:0.1.0-sm90 .
#
# Some kernels are machine code for one generation of GPUs: 80 (A100), 86 (A10, RTX 30), 89 (L4, L40S, RTX 40), 90 (H100,
# H200), 100 (B200). Build one image per generation that you have, and name it in the chart's worker-cuda value.
# Not static: the driver's library comes from the node (NVIDIA's container runtime), CUDA's own from the image below. No
# shell, no package manager, nobody's user; the root file system is never written to.

FROM rust:1.95.0-bookworm AS rust

# The oldest glibc that NVIDIA still builds for: what is linked here runs on the base below.
FROM nvidia/cuda:13.0.2-devel-ubuntu22.04 AS build
ARG COMPUTE_CAPABILITY=90
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV PATH=/usr/local/cargo/bin:$PATH \
    CARGO_HOME=/usr/local/cargo \
    RUSTUP_HOME=/usr/local/rustup \
    RUSTUP_TOOLCHAIN=1.95.0 \
    CUDA_COMPUTE_CAP=${COMPUTE_CAPABILITY}
RUN apt-get update && apt-get install --yes --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The toolchain of the first image as it is: linters need not be fetched for a build.
# The driver's library is a stub here and the node's own in a pod.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target,id=inference-mesh-cuda-${COMPUTE_CAPABILITY} \
    set -eu; \
    export CARGO_TARGET_DIR=/target RUSTFLAGS="-L /usr/local/cuda/lib64/stubs"; \
    cargo build --profile image --locked --package mesh-worker --features cuda; \
    mkdir -p /out/lib; \
    objcopy --strip-all /target/image/mesh-worker /out/mesh-worker; \
    for library in cudart cublas cublasLt curand nvrtc nvrtc-builtins; do \
      cp --no-dereference --preserve=links /usr/local/cuda/lib64/lib${library}.so.* /out/lib/; \
    done; \
    cp /usr/lib/x86_64-linux-gnu/libstdc++.so.6 /lib/x86_64-linux-gnu/libgcc_s.so.1 /out/lib/

FROM gcr.io/distroless/base-debian12:nonroot
COPY --from=build /out/lib /usr/local/lib/mesh
COPY --from=build --chmod=0555 /out/mesh-worker /mesh-worker
LABEL org.opencontainers.image.title="worker-cuda" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
ENV LD_LIBRARY_PATH=/usr/local/lib/mesh \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MESH_DEVICE=cuda
USER 65532:65532
ENTRYPOINT ["/mesh-worker"]
