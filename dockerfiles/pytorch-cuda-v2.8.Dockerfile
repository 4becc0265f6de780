# pytorch-cuda:v2.8: PyTorch 2.8.0, CUDA 12.8, cuDNN 9.10.2, NCCL 2.27.3, DeepSpeed 0.19.8 with a compiled FusedAdam
# Rendered by `envbuild render pytorch-cuda:v2.8` from recipe and lock. Do not edit: `envbuild render --check` compares.
#
#   docker buildx build -f dockerfiles/pytorch-cuda-v2.8.Dockerfile -t pytorch-cuda:v2.8-docker dockerfiles
#
# Proxies: --build-arg https_proxy=… Optional secrets, none of which stays in the image: --secret id=ca,src=FILE
# (certificate authorities, instead of Ubuntu's), --secret id=pip,src=pip.conf, --secret id=uv,src=uv.toml (indexes).
# UV_PYTHON_INSTALL_MIRROR: where the interpreter comes from, if not from its first source.
# envbuild's own programs (envbuild-doctor, envbuild-jupyter, envbuild-sshd) are only in the image that `envbuild image pytorch-cuda:v2.8` makes.

FROM nvidia/cuda:12.8.1-devel-ubuntu24.04@sha256:4b9ed5fa8361736996499f64ecebf25d4ec37ff56e4d11323ccde10aa36e0c43 AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG DEBIAN_FRONTEND=noninteractive
ARG UV_PYTHON_INSTALL_MIRROR
ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_LINK_MODE=copy SOURCE_DATE_EPOCH=1577836800 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt

# Versions are not pinned: Ubuntu removes old ones, so a pin would stop the build, not fix it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-pip \
    && rm -rf /var/lib/apt/lists/*

# uv and what setup.py imports, with their hashes, apart from the image's packages.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pytorch-cuda-v2.8.build.txt,target=/run/build.txt \
    python3 -m pip install --no-cache-dir --no-deps --require-hashes --target /opt/build -r /run/build.txt

# Python 3.11.18: uv checks the archive's hash.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    /opt/build/bin/uv python install --no-bin 3.11.18; \
    /opt/build/bin/uv venv --managed-python --python 3.11.18 /opt/venv

RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pytorch-cuda-v2.8.requirements.txt,target=/run/requirements.txt \
    /opt/build/bin/uv pip install --python /opt/venv --no-deps --require-hashes --only-binary :all: \
      --compile-bytecode -r /run/requirements.txt

# DeepSpeed 0.19.8 with fused_adam compiled. Without DS_ACCELERATOR a
# machine without a GPU builds the CPU operator, under the same name.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pytorch-cuda-v2.8.deepspeed.txt,target=/run/deepspeed.txt \
    export PYTHONPATH=/opt/build CUDA_HOME=/usr/local/cuda DS_ACCELERATOR=cuda DS_BUILD_FUSED_ADAM=1 \
      TORCH_CUDA_ARCH_LIST="7.0;8.0;8.6;9.0+PTX" PYTHONHASHSEED=0 LDFLAGS="-Wl,-s -Wl,--build-id=none"; \
    /opt/build/bin/uv pip install --python /opt/venv --no-deps --require-hashes --no-build-isolation --no-cache \
      --compile-bytecode -r /run/deepspeed.txt

# Refuse anything but the CUDA operator, for every architecture.
RUN module=$(ls /opt/venv/lib/python3.11/site-packages/deepspeed/ops/adam/fused_adam_op.*.so); \
    readelf --dynamic "$module" | grep --fixed-strings libcudart.so; \
    cuobjdump --list-elf "$module" > /tmp/code; \
    cuobjdump --list-ptx "$module" >> /tmp/code; \
    grep --fixed-strings .sm_70.cubin /tmp/code; \
    grep --fixed-strings .sm_80.cubin /tmp/code; \
    grep --fixed-strings .sm_86.cubin /tmp/code; \
    grep --fixed-strings .sm_90.cubin /tmp/code; \
    grep --fixed-strings .sm_90.ptx /tmp/code; \
    rm /tmp/code

RUN /opt/venv/bin/python -c "import torch, deepspeed; assert torch.version.cuda == '12.8', torch.version.cuda"

FROM nvidia/cuda:12.8.1-base-ubuntu24.04@sha256:133c78a0575303be34164d0b90137a042172bdf60696af01a3c424ab402d86e2
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG DEBIAN_FRONTEND=noninteractive

# gcc: Triton and torch.compile need it at run time. The user `ubuntu` has the id that `envbuild` gets.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ gcc git less libc6-dev openssh-client openssh-server pdsh procps tini \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
    && if id ubuntu > /dev/null 2>&1; then userdel --remove ubuntu; fi \
    && groupadd --gid 1000 envbuild \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash envbuild

COPY --from=build /opt/python /opt/python
COPY --from=build /opt/venv /opt/venv

ENV PATH="/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV VIRTUAL_ENV="/opt/venv"
ENV LANG="C.UTF-8"
ENV NVIDIA_VISIBLE_DEVICES="all"
ENV NVIDIA_DRIVER_CAPABILITIES="compute,utility"
ENV PIP_ROOT_USER_ACTION="ignore"
LABEL org.opencontainers.image.title="pytorch-cuda:v2.8"
LABEL org.opencontainers.image.description="PyTorch 2.8.0, CUDA 12.8, cuDNN 9.10.2, NCCL 2.27.3, DeepSpeed 0.19.8 with a compiled FusedAdam"
LABEL org.opencontainers.image.version="v2.8"
LABEL org.opencontainers.image.created="2026-11-17T06:35:24Z"
LABEL io.envbuild.ref="pytorch-cuda:v2.8"
LABEL io.envbuild.lock.format="1"
LABEL io.envbuild.inputs="sha256:ed2369a5bfe0a8694f166d01b13a6d6db5d6883c3c1b73a8c6a9bc0c08d98fe2"
LABEL io.envbuild.torch="2.8.0"
LABEL io.envbuild.cuda="12.8"
LABEL io.envbuild.cudnn="9.10.2.21"
LABEL io.envbuild.nccl="2.27.3"
LABEL io.envbuild.parts="jupyter ssh"
LABEL io.envbuild.deepspeed="0.19.8"
LABEL io.envbuild.architectures="7.0;8.0;8.6;9.0+PTX"
LABEL org.opencontainers.image.base.name="nvidia/cuda:12.8.1-base-ubuntu24.04"
LABEL org.opencontainers.image.base.digest="sha256:133c78a0575303be34164d0b90137a042172bdf60696af01a3c424ab402d86e2"

EXPOSE 22/tcp 8888/tcp

WORKDIR /workspace
ENTRYPOINT ["/usr/bin/tini", "-s", "-g", "--"]
CMD ["bash"]
