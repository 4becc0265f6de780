# pytorch-cuda:v2.7-devel: PyTorch 2.7.1, CUDA 12.6, cuDNN 9.5.1, NCCL 2.26.2, DeepSpeed 0.19.8, nvcc and headers
# Rendered by `envbuild render pytorch-cuda:v2.7-devel` from recipe and lock. Do not edit: `envbuild render --check` compares.
#
#   docker buildx build -f dockerfiles/pytorch-cuda-v2.7-devel.Dockerfile -t pytorch-cuda:v2.7-devel-docker dockerfiles
#
# Proxies: --build-arg https_proxy=… Optional secrets, none of which stays in the image: --secret id=ca,src=FILE
# (certificate authorities, instead of Ubuntu's), --secret id=pip,src=pip.conf, --secret id=uv,src=uv.toml (indexes).
# UV_PYTHON_INSTALL_MIRROR: where the interpreter comes from, if not from its first source.
# envbuild's own programs (envbuild-doctor, envbuild-jupyter, envbuild-sshd) are only in the image that `envbuild image pytorch-cuda:v2.7-devel` makes.

FROM nvidia/cuda:12.6.3-devel-ubuntu24.04@sha256:392c0df7b577ecae17a17f6ba7f2009c217bb4422f8431c053ae9af61a8c148a AS build
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
    --mount=type=bind,source=pytorch-cuda-v2.7-devel.build.txt,target=/run/build.txt \
    python3 -m pip install --no-cache-dir --no-deps --require-hashes --target /opt/build -r /run/build.txt

# Python 3.11.18: uv checks the archive's hash.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    /opt/build/bin/uv python install --no-bin 3.11.18; \
    /opt/build/bin/uv venv --managed-python --python 3.11.18 /opt/venv

RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pytorch-cuda-v2.7-devel.requirements.txt,target=/run/requirements.txt \
    /opt/build/bin/uv pip install --python /opt/venv --no-deps --require-hashes --only-binary :all: \
      --compile-bytecode -r /run/requirements.txt

# DeepSpeed 0.19.8 with fused_adam compiled. Without DS_ACCELERATOR a
# machine without a GPU builds the CPU operator, under the same name.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pytorch-cuda-v2.7-devel.deepspeed.txt,target=/run/deepspeed.txt \
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

RUN /opt/venv/bin/python -c "import torch, deepspeed; assert torch.version.cuda == '12.6', torch.version.cuda"

FROM nvidia/cuda:12.6.3-devel-ubuntu24.04@sha256:392c0df7b577ecae17a17f6ba7f2009c217bb4422f8431c053ae9af61a8c148a
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

ENV PATH="/opt/venv/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV VIRTUAL_ENV="/opt/venv"
ENV LANG="C.UTF-8"
ENV NVIDIA_VISIBLE_DEVICES="all"
ENV NVIDIA_DRIVER_CAPABILITIES="compute,utility"
ENV PIP_ROOT_USER_ACTION="ignore"
ENV CUDA_HOME="/usr/local/cuda"
ENV NVCC_PREPEND_FLAGS="-cudart=shared -cudadevrt=none -Xlinker -rpath=/usr/local/cuda/lib64"
ENV NCCL_CUMEM_HOST_ENABLE="0"
LABEL org.opencontainers.image.title="pytorch-cuda:v2.7-devel"
LABEL org.opencontainers.image.description="PyTorch 2.7.1, CUDA 12.6, cuDNN 9.5.1, NCCL 2.26.2, DeepSpeed 0.19.8, nvcc and headers"
LABEL org.opencontainers.image.version="v2.7-devel"
LABEL org.opencontainers.image.created="2026-11-17T06:35:24Z"
LABEL io.envbuild.ref="pytorch-cuda:v2.7-devel"
LABEL io.envbuild.lock.format="1"
LABEL io.envbuild.inputs="sha256:f7a718d23c2bcece4eb6e2ca3759ba371d716f83d8c02b9bea0162bec0128630"
LABEL io.envbuild.torch="2.7.1"
LABEL io.envbuild.cuda="12.6"
LABEL io.envbuild.cudnn="9.5.1.17"
LABEL io.envbuild.nccl="2.26.2"
LABEL io.envbuild.parts="jupyter ssh devel"
LABEL io.envbuild.deepspeed="0.19.8"
LABEL io.envbuild.architectures="7.0;8.0;8.6;9.0+PTX"
LABEL org.opencontainers.image.base.name="nvidia/cuda:12.6.3-devel-ubuntu24.04"
LABEL org.opencontainers.image.base.digest="sha256:392c0df7b577ecae17a17f6ba7f2009c217bb4422f8431c053ae9af61a8c148a"

EXPOSE 22/tcp 8888/tcp

WORKDIR /workspace
ENTRYPOINT ["/usr/bin/tini", "-s", "-g", "--"]
CMD ["bash"]
