#!/bin/sh
# A virtual environment with a CPU build of torch and DeepSpeed without operators: what the tests marked `torch` run in.
#
#   ci/torch-cpu.sh FOLDER
#
# Prints the path of its Python; give it to the tests as ENVBUILD_TORCH_PYTHON.
set -eu
folder=$1
python=$folder/bin/python
if ! "$python" -c 'import torch, deepspeed' 2>/dev/null; then
    python3 -m venv "$folder" >&2
    "$folder/bin/pip" install -q setuptools wheel ninja numpy huggingface_hub torch==2.13.0 >&2
    DS_BUILD_OPS=0 "$folder/bin/pip" install -q --no-build-isolation deepspeed==0.19.8 >&2
fi
printf '%s\n' "$(cd "$folder" && pwd)/bin/python"
