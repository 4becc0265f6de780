# pytorch-cuda:v2.7: PyTorch 2.7.1, CUDA 12.6, cuDNN 9.5.1, NCCL 2.26.2, DeepSpeed 0.19.8 with a compiled FusedAdam
# Rendered by `envbuild render pytorch-cuda:v2.7` from recipe and locks. Do not edit: `envbuild render --check` compares.
#
#   docker buildx build -f dockerfiles/pytorch-cuda-v2.7.Dockerfile -t pytorch-cuda:v2.7-nvidia-candidate dockerfiles
#
# Four steps download: the system's packages (in both stages), the interpreter's, Python's. All others have no network.
# With --build-context artifacts=DIR (wheels/, conda/, debs/) nothing is downloaded: then build with --network=none.
# Proxies: --build-arg https_proxy=… Secrets, all optional, none of which stays in the image, as --secret id=ID,src=FILE:
#   ca       certificate authorities, instead of the base's
#   apt      a sources.list, instead of the base's, taken as it is: without APT_SNAPSHOT
#   channel  one line: the address that stands in for https://conda.invalid/small
#   pip      a pip.conf: Python's index
# More: docs/how-to/build-the-dockerfiles.md

# What to compile in, what to ship on, and where one program comes from: all by digest, all replaceable. Whoever replaces
# BASE says so in the image: --label org.opencontainers.image.base.name=… and .digest=…
ARG BUILD_BASE=nvidia/cuda:12.6.3-devel-ubuntu24.04@sha256:392c0df7b577ecae17a17f6ba7f2009c217bb4422f8431c053ae9af61a8c148a
ARG BASE=nvidia/cuda:12.6.3-base-ubuntu24.04@sha256:c87e78933f4c16e3272123bf2f75537306596d0fbaa395a29696a22786e5ee0e
ARG MICROMAMBA=mambaorg/micromamba:2.3.3@sha256:800e7ade3ffe29c9a9ac2026163131495f8197c3852e572c5835beb4e8a33cd6
# The time in Ubuntu's archive whose packages are installed: the day of the lock. Empty: what the sources offer now.
ARG APT_SNAPSHOT=20261120T000000Z

FROM ${MICROMAMBA} AS micromamba

# Empty, unless --build-context artifacts=DIR brings files that were fetched before, or --build-context programs=DIR
# envbuild's own programs (envbuild-doctor, envbuild-jupyter, envbuild-sshd).
FROM scratch AS artifacts
FROM scratch AS programs

FROM ${BUILD_BASE} AS build
ARG APT_SNAPSHOT
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# Only what the base lacks, so a base that has all of it needs no network here. Versions are those of Ubuntu's archive at
# APT_SNAPSHOT; apt checks its signature. The first update tells apt which sources have snapshots; others stay as they are.
# hadolint ignore=DL3008
RUN --mount=type=secret,id=ca,target=/run/ca.crt,mode=0444 --mount=type=secret,id=apt,target=/run/apt.list \
    --mount=type=bind,from=artifacts,target=/run/artifacts \
    missing=(); \
    for name in binutils ca-certificates g++ gcc libc6-dev; do \
      [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2> /dev/null) == installed ]] || missing+=("$name"); \
    done; \
    if [[ -z ${missing[*]} ]]; then exit 0; fi; \
    options=(); \
    if [[ -s /run/ca.crt ]]; then options+=(-o Acquire::https::CAInfo=/run/ca.crt); fi; \
    if [[ -s /run/apt.list ]]; then \
      options+=(-o Dir::Etc::SourceList=/run/apt.list -o Dir::Etc::SourceParts=/dev/null); \
    fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    if [[ -d /run/artifacts/debs ]]; then \
      apt-get install --yes --no-install-recommends --no-download /run/artifacts/debs/*.deb; \
    else \
      apt-get update "${options[@]}"; \
      if [[ -n ${APT_SNAPSHOT:-} && ! -s /run/apt.list ]]; then \
        options+=(--snapshot "$APT_SNAPSHOT"); \
        apt-get update -o APT::Update::Error-Mode=any "${options[@]}"; \
      fi; \
      apt-get install --yes --no-install-recommends "${options[@]}" "${missing[@]}"; \
    fi; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/cache/ldconfig/aux-cache \
      /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log

# The interpreter: Python 3.11.9 and what it needs, 3 packages (Ubuntu has no release of Python 3.11).
# They are only brought here; the next step compares their hashes, whoever brought them.
COPY --from=micromamba /bin/micromamba /opt/micromamba
RUN --mount=type=secret,id=ca,target=/run/ca.crt,mode=0444 --mount=type=secret,id=channel,target=/run/channel \
    --mount=type=bind,from=artifacts,target=/run/artifacts \
    --mount=type=bind,source=pytorch-cuda-v2.7.conda.txt,target=/run/conda.txt \
    mkdir /tmp/conda; \
    if [[ -d /run/artifacts/conda ]]; then \
      find /run/artifacts/conda -type f -exec cp --target-directory=/tmp/conda {} +; \
      exit 0; \
    fi; \
    list=$(< /run/conda.txt); \
    if [[ -s /run/channel ]]; then \
      mirror=$(< /run/channel); \
      list=${list//"https://conda.invalid/small"/"${mirror%/}"}; \
    fi; \
    echo "$list" > /tmp/list.txt; \
    ca=/etc/ssl/certs/ca-certificates.crt; \
    if [[ -s /run/ca.crt ]]; then ca=/run/ca.crt; fi; \
    /opt/micromamba create --no-rc --no-env --yes --download-only --ssl-verify "$ca" \
      --root-prefix /tmp/mamba --prefix /tmp/nothing --file /tmp/list.txt; \
    find /tmp/mamba/pkgs -type f \( -name '*.conda' -o -name '*.tar.bz2' \) -exec mv --target-directory=/tmp/conda {} +; \
    rm -rf /tmp/mamba /tmp/nothing /tmp/list.txt

# Installed from files, so that it is the same whoever brought them; then conda-meta names the channel's own addresses.
# Nothing of /opt/conda is in LD_LIBRARY_PATH or ld.so.conf: only this Python finds its libraries, by its own RPATH.
RUN --network=none --mount=type=bind,source=pytorch-cuda-v2.7.conda.txt,target=/run/conda.txt \
    echo @EXPLICIT > /tmp/list.txt; \
    while IFS='#' read -r url hash; do \
      [[ $url == https://* ]] || continue; \
      file=${url##*/}; folder=${url%/*}; folder=/tmp/channel/${folder##*/}; \
      echo "${hash#sha256:}  /tmp/conda/$file" | sha256sum --check --strict --quiet; \
      mkdir --parents "$folder"; \
      mv "/tmp/conda/$file" "$folder/"; \
      echo "$folder/$file" >> /tmp/list.txt; \
    done < /run/conda.txt; \
    /opt/micromamba create --no-rc --no-env --yes --no-pyc \
      --root-prefix /tmp/mamba --prefix /opt/conda --file /tmp/list.txt; \
    sed --in-place 's|file:///tmp/channel|https://conda.invalid/small|' /opt/conda/conda-meta/*.json; \
    : > /opt/conda/conda-meta/history; \
    rm -rf /tmp/mamba /tmp/channel /tmp/conda /tmp/list.txt; \
    /opt/conda/bin/python3.11 -m venv --without-pip /opt/venv

# Python packages are brought: those of the context `artifacts`, or from the index that pip.conf names.
# pip runs DeepSpeed's setup.py even to download it, so what that imports is installed first, apart from the image.
RUN --mount=type=secret,id=ca,target=/run/ca.crt,mode=0444 --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=artifacts,target=/run/artifacts \
    --mount=type=bind,source=pytorch-cuda-v2.7.build.txt,target=/run/build.txt \
    --mount=type=bind,source=pytorch-cuda-v2.7.requirements.txt,target=/run/requirements.txt \
    --mount=type=bind,source=pytorch-cuda-v2.7.deepspeed.txt,target=/run/deepspeed.txt \
    if [[ -d /run/artifacts/wheels ]]; then ln --symbolic /run/artifacts/wheels /tmp/wheels; exit 0; fi; \
    export PIP_CERT=/etc/ssl/certs/ca-certificates.crt; \
    if [[ -s /run/ca.crt ]]; then PIP_CERT=/run/ca.crt; fi; \
    /opt/conda/bin/python3.11 -m venv /tmp/pip; \
    download=(/tmp/pip/bin/pip download --no-deps --require-hashes --dest /tmp/wheels); \
    "${download[@]}" --only-binary :all: -r /run/build.txt; \
    "${download[@]}" --only-binary :all: -r /run/requirements.txt; \
    /tmp/pip/bin/pip install --no-cache-dir --no-index --find-links /tmp/wheels --no-deps --require-hashes -r /run/build.txt; \
    "${download[@]}" --no-binary :all: --no-build-isolation -r /run/deepspeed.txt; \
    rm -rf /tmp/pip

# They are installed, with their hashes, by a pip that runs in its own wheel. The fixed time gets into byte code and, by
# nvcc's -lineinfo, into the operators: without it no two builds would be the same.
RUN --network=none --mount=type=bind,from=artifacts,target=/run/artifacts \
    --mount=type=bind,source=pytorch-cuda-v2.7.build.txt,target=/run/build.txt \
    --mount=type=bind,source=pytorch-cuda-v2.7.requirements.txt,target=/run/requirements.txt \
    echo "bdb1b08f4274833d62c1aa29e20907365a2ceb950410df15fc9521bad440122b  /tmp/wheels/pip-26.0.1-py3-none-any.whl" | sha256sum --check --strict --quiet; \
    install=(/opt/venv/bin/python /tmp/wheels/pip-26.0.1-py3-none-any.whl/pip install --isolated --no-cache-dir --no-compile \
      --no-index --find-links /tmp/wheels --no-deps --require-hashes --only-binary :all: --root-user-action ignore); \
    "${install[@]}" -r /run/requirements.txt; \
    "${install[@]}" --target /opt/build -r /run/build.txt; \
    find /opt/venv -exec touch --no-dereference --date=@1577836800 {} +

# DeepSpeed 0.19.8 with fused_adam compiled. Without DS_ACCELERATOR a machine without a GPU builds the CPU
# operator, under the same name. CC to LDCXXSHARED: conda's Python would have it linked with conda's libraries.
RUN --network=none --mount=type=bind,from=artifacts,target=/run/artifacts \
    echo "050a3f4c5bc39feeb103f3fa1ae8111564d4048d1c6081315282d7763bfe1ff2  /tmp/wheels/deepspeed-0.19.8.tar.gz" | sha256sum --check --strict --quiet; \
    mkdir --parents /build/src; \
    tar --extract --file /tmp/wheels/deepspeed-0.19.8.tar.gz --directory /build/src --strip-components=1 --no-same-owner; \
    export DS_ACCELERATOR=cuda DS_BUILD_FUSED_ADAM=1 TORCH_CUDA_ARCH_LIST='7.0;8.0;8.6;9.0+PTX' \
      CUDA_HOME=/usr/local/cuda PATH="/opt/venv/bin:/usr/local/cuda/bin:$PATH" PYTHONPATH=/opt/build \
      PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=1577836800 LDFLAGS='-Wl,-s -Wl,--build-id=none' \
      CC=gcc CXX=g++ LDSHARED='g++ -shared -pthread' LDCXXSHARED='g++ -shared -pthread'; \
    MAX_JOBS=$(nproc) env --chdir=/build/src /opt/venv/bin/python setup.py --quiet bdist_wheel --dist-dir /build/out; \
    /opt/venv/bin/python /tmp/wheels/pip-26.0.1-py3-none-any.whl/pip install --isolated --no-cache-dir --no-compile \
      --no-index --find-links /build/out --no-deps --root-user-action ignore deepspeed==0.19.8; \
    rm -rf /build

# Refuse anything but the CUDA operator, for every architecture. Triton brings a cuobjdump for bases without one.
RUN --network=none \
    module=$(ls /opt/venv/lib/python3.11/site-packages/deepspeed/ops/adam/fused_adam_op.*.so); \
    readelf --dynamic "$module" > /tmp/dynamic; \
    grep --fixed-strings libcudart.so /tmp/dynamic; \
    if grep --fixed-strings /opt/conda /tmp/dynamic; then exit 1; fi; \
    PATH=/usr/local/cuda/bin:$PATH:/opt/venv/lib/python3.11/site-packages/triton/backends/nvidia/bin; \
    cuobjdump --list-elf "$module" > /tmp/code; \
    cuobjdump --list-ptx "$module" >> /tmp/code; \
    grep --fixed-strings .sm_70.cubin /tmp/code; \
    grep --fixed-strings .sm_80.cubin /tmp/code; \
    grep --fixed-strings .sm_86.cubin /tmp/code; \
    grep --fixed-strings .sm_90.cubin /tmp/code; \
    grep --fixed-strings .sm_90.ptx /tmp/code; \
    rm /tmp/code /tmp/dynamic

RUN --network=none \
    /opt/venv/bin/python -B -c "import torch, deepspeed; assert torch.version.cuda == '12.6', torch.version.cuda"

# Byte code names the time of its source, so no file is newer than one time, before and after. What has that time is left
# alone: touching it would copy it from the layer below, 6 GB in all. compileall ends with 1 where a file does not
# compile (some packages ship templates): that is none of those that have just been imported.
RUN --network=none \
    find /opt/conda /opt/venv -name __pycache__ -prune -exec rm -rf {} +; \
    find /opt/conda /opt/venv -newermt @1577836800 -exec touch --no-dereference --date=@1577836800 {} +; \
    PYTHONHASHSEED=0 /opt/venv/bin/python -m compileall -qq -j 0 --invalidation-mode timestamp \
      /opt/conda/lib/python3.11 /opt/venv/lib/python3.11 || [[ $? == 1 ]]; \
    find /opt/conda /opt/venv \( -type d -o -name '*.pyc' \) -exec touch --date=@1577836800 {} +

# What is shipped: no compiler of CUDA's, but gcc, which Triton and torch.compile need when they run.
FROM ${BASE}
ARG APT_SNAPSHOT
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# Only what the base lacks, so a base that has all of it needs no network here. Versions are those of Ubuntu's archive at
# APT_SNAPSHOT; apt checks its signature. The first update tells apt which sources have snapshots; others stay as they are.
# hadolint ignore=DL3008
RUN --mount=type=secret,id=ca,target=/run/ca.crt,mode=0444 --mount=type=secret,id=apt,target=/run/apt.list \
    --mount=type=bind,from=artifacts,target=/run/artifacts \
    missing=(); \
    for name in ca-certificates g++ gcc git less libc6-dev openssh-client openssh-server pdsh procps tini; do \
      [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2> /dev/null) == installed ]] || missing+=("$name"); \
    done; \
    if [[ -z ${missing[*]} ]]; then exit 0; fi; \
    options=(); \
    if [[ -s /run/ca.crt ]]; then options+=(-o Acquire::https::CAInfo=/run/ca.crt); fi; \
    if [[ -s /run/apt.list ]]; then \
      options+=(-o Dir::Etc::SourceList=/run/apt.list -o Dir::Etc::SourceParts=/dev/null); \
    fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    if [[ -d /run/artifacts/debs ]]; then \
      apt-get install --yes --no-install-recommends --no-download /run/artifacts/debs/*.deb; \
    else \
      apt-get update "${options[@]}"; \
      if [[ -n ${APT_SNAPSHOT:-} && ! -s /run/apt.list ]]; then \
        options+=(--snapshot "$APT_SNAPSHOT"); \
        apt-get update -o APT::Update::Error-Mode=any "${options[@]}"; \
      fi; \
      apt-get install --yes --no-install-recommends "${options[@]}" "${missing[@]}"; \
    fi; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/cache/ldconfig/aux-cache \
      /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log

# torch's wheels bring CUDA's libraries, cuDNN and NCCL. The base's NCCL goes, and its CUDA libraries leave the loader's
# path: a second copy that a program can find is how two versions get mixed, and the gate refuses it.
RUN --network=none \
    for name in libnccl-dev libnccl2; do \
      if [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2> /dev/null) == installed ]]; then \
        dpkg --force-hold --purge "$name"; \
      fi; \
    done; \
    for file in /etc/ld.so.conf.d/*.conf; do \
      if grep --quiet --no-messages --fixed-strings /usr/local/cuda "$file"; then rm "$file"; fi; \
    done; \
    ldconfig; \
    touch --date=@1577836800 /etc/ld.so.cache; \
    rm -f /var/cache/ldconfig/aux-cache /var/lib/dpkg/*-old /var/log/dpkg.log

# Ubuntu's own user 1000 makes way. The day that /etc/shadow notes is that of SOURCE_DATE_EPOCH. envbuild's programs
# start Python by its path in Debian.
# Host keys are made when sshd first starts, so that no two containers share one.
RUN --network=none \
    export SOURCE_DATE_EPOCH=1577836800; \
    if id ubuntu > /dev/null 2>&1; then userdel --remove ubuntu; fi; \
    if ! id envbuild > /dev/null 2>&1; then \
      groupadd --gid 1000 envbuild; \
      useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash envbuild; \
    fi; \
    install --directory --owner=1000 --group=1000 /workspace; \
    if [[ ! -e /usr/bin/python3.11 ]]; then ln --symbolic /opt/conda/bin/python3.11 /usr/bin/python3.11; fi; \
    rm -f /etc/ssh/ssh_host_*; \
    rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid- /var/log/lastlog /var/log/faillog

COPY --from=build /opt/conda /opt/conda
# The user's own, so that pip can install there.
COPY --from=build --chown=1000:1000 /opt/venv /opt/venv
# Nothing but envbuild's own programs, or nothing.
# hadolint ignore=DL3067
COPY --from=programs / /

# NVIDIA's images name their CUDA libraries here, too. What stays is where some engines put the driver's; with nothing at
# all a later X:$LD_LIBRARY_PATH would end in an empty name, which the loader takes for the current folder.
ENV LD_LIBRARY_PATH="/usr/local/nvidia/lib:/usr/local/nvidia/lib64"
ENV PATH="/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV VIRTUAL_ENV="/opt/venv"
ENV LANG="C.UTF-8"
ENV NVIDIA_VISIBLE_DEVICES="all"
ENV NVIDIA_DRIVER_CAPABILITIES="compute,utility"
ENV PIP_ROOT_USER_ACTION="ignore"
ENV NCCL_CUMEM_HOST_ENABLE="0"
LABEL org.opencontainers.image.title="pytorch-cuda:v2.7"
LABEL org.opencontainers.image.description="PyTorch 2.7.1, CUDA 12.6, cuDNN 9.5.1, NCCL 2.26.2, DeepSpeed 0.19.8 with a compiled FusedAdam"
LABEL org.opencontainers.image.version="v2.7"
LABEL org.opencontainers.image.created="2026-11-20T00:00:00Z"
LABEL io.envbuild.ref="pytorch-cuda:v2.7"
LABEL io.envbuild.lock.format="2"
LABEL io.envbuild.inputs="sha256:a87c93e14b0c7bc8863779cd9c94f4db88f11736b0944a47ee11805202a5788e"
LABEL io.envbuild.torch="2.7.1"
LABEL io.envbuild.cuda="12.6"
LABEL io.envbuild.cudnn="9.5.1.17"
LABEL io.envbuild.nccl="2.26.2"
LABEL io.envbuild.parts="jupyter ssh"
LABEL io.envbuild.deepspeed="0.19.8"
LABEL io.envbuild.architectures="7.0;8.0;8.6;9.0+PTX"
LABEL org.opencontainers.image.base.name="nvidia/cuda:12.6.3-base-ubuntu24.04"
LABEL org.opencontainers.image.base.digest="sha256:c87e78933f4c16e3272123bf2f75537306596d0fbaa395a29696a22786e5ee0e"

# Healthy, unless the container was started as JupyterLab and that does not answer. In bash (engines start sh here): to
# start a Python every half minute would cost more than what it looks after.
# hadolint ignore=DL3025
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD exec bash -euo pipefail -c ' \
    started=$(tr "\0" " " < /proc/1/cmdline); \
    [[ $started =~ (envbuild-jupyter|jupyter[-\ ]lab) ]] || exit 0; \
    port=${JUPYTER_PORT:-8888}; \
    if [[ $started =~ port[=\ ]([0-9]+) ]]; then port=${BASH_REMATCH[1]}; fi; \
    exec 3<> "/dev/tcp/127.0.0.1/$port"; \
    printf "GET /api HTTP/1.0\r\n\r\n" >&3; \
    read -r status <&3; \
    [[ $status == HTTP/1.?\ [234]* ]]'

# 2222: where envbuild-sshd listens as an ordinary user.
EXPOSE 22/tcp 2222/tcp 8888/tcp

# Not root: a mounted folder of the host's first user is then this user's. --user root where root is needed.
USER 1000:1000
WORKDIR /workspace
ENTRYPOINT ["/usr/bin/tini", "-s", "-g", "--"]
CMD ["bash"]
