#!/bin/sh
# The tests marked `gpu`: the suite on real GPUs, and seeded defects that it must refuse there.
#
#   ci/gpu-tests.sh [PYTEST ARGUMENTS]
#
# Needs Python 3.11 or newer with pytest, pytest-timeout, hypothesis, torch (CUDA), and DeepSpeed with its FusedAdam
# compiled; none of envbuild's own dependencies. With pytest-xdist, `-n 4` runs four tests at a time.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
exec python3 -m pytest --rootdir "$here" --confcutdir "$here/tests/smoke" -p no:cacheprovider -m gpu "$here/tests/smoke" "$@"
