#!/bin/bash
# Prove an image on a machine with GPUs that has no network: take its bundle in, run the suite in it, give it its tag.
#
#   ci/gpu-proof.sh take  --bundle DIR --have DIR [--needs DIR]     once for each batch of pieces, in any order
#   ci/gpu-proof.sh prove --ref NAME:TAG --out DIR                  the suite in a container, then the tag
#
# --engine oci,sandbox runs the suite by both, one after the other; the tag is given once, when all have passed.
#
# Further: --work DIR (installed needs; /tmp/gpu-proof), --store DIR (/dev/shm/envbuild-store: layers are unpacked
# there, and must not lie on an overlay), --engine oci|sandbox|oci,sandbox, --gpus N, --python PYTHON.
# --needs holds wheels of what envbuild lacks there, and .debs of crun and its library; each is installed below --work.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
work=/tmp/gpu-proof store=/dev/shm/envbuild-store engine=oci gpus=2 python=python3
bundle='' have='' needs='' ref='' out=''
verb=${1:-}
[ $# -gt 0 ] && shift
while [ $# -gt 0 ]; do
  case $1 in
    --bundle) bundle=$2 ;;
    --have) have=$2 ;;
    --needs) needs=$2 ;;
    --ref) ref=$2 ;;
    --out) out=$2 ;;
    --work) work=$2 ;;
    --store) store=$2 ;;
    --engine) engine=$2 ;;
    --gpus) gpus=$2 ;;
    --python) python=$2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done

say() { printf '== %s  %s\n' "$(date -u +%H:%M:%S)" "$*"; }

run_envbuild() {
  PYTHONPATH="$work/site:$repository" PATH="$work/bin:$PATH" ENVBUILD_STORE=$store \
    "$python" -P -m envbuild "$@"
}

install_needs() {
  mkdir -p "$work/site" "$work/bin" "$work/root"
  for wheel in "$needs"/*.whl; do
    [ -e "$wheel" ] || continue
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
      --root-user-action ignore --target "$work/site" "$needs"/*.whl
    break
  done
  for package in "$needs"/*.deb; do
    [ -e "$package" ] || continue
    dpkg -x "$package" "$work/root"
  done
  if [ -x "$work/root/usr/bin/crun" ]; then
    # Its library lies beside it, not in the system.
    cat >"$work/bin/crun" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec $work/root/usr/bin/crun "\$@"
WRAPPER
    chmod +x "$work/bin/crun"
    "$work/bin/crun" --version | head -1
  fi
}

take() {
  [ -n "$bundle" ] && [ -n "$have" ] || { echo "take needs --bundle and --have" >&2; exit 2; }
  [ -z "$needs" ] || { say "install what envbuild needs"; install_needs; }
  say "take in $(find "$bundle" -name 'piece-*' | wc -l) pieces"
  time run_envbuild unbundle "$bundle" --have "$have" --partial
  df -h "$store" | tail -1
}

# suite_by ENGINE: verdict, page and log of it; its status is the suite's.
suite_by() {
  say "the suite in a container of $ref, engine $1, $gpus GPUs"
  time run_envbuild smoke "$ref" --engine "$1" --gpus "$gpus" --report "$out/verdict-$1.json" \
    --html "$out/verdict-$1.html" 2>&1 | tee "$out/smoke-$1.log"
}

prove() {
  [ -n "$ref" ] && [ -n "$out" ] || { echo "prove needs --ref and --out" >&2; exit 2; }
  mkdir -p "$out"
  say "the machine"
  nvidia-smi --query-gpu=name,driver_version,memory.total,ecc.errors.uncorrected.volatile.total --format=csv |
    tee "$out/nvidia-smi.txt" || true
  env | grep -E '^(NCCL|TORCH_NCCL|TORCH_SYMM_MEM|NVSHMEM)_' | sort | tee "$out/environment.txt" || true
  local each failed=0
  for each in ${engine//,/ }; do
    suite_by "$each" || failed=$?
  done
  run_envbuild key show >"$out/key.pem" || true
  if [ "$failed" -ne 0 ]; then
    say "the suite did not pass by every engine (exit $failed): no tag"
    exit "$failed"
  fi
  say "promote"
  run_envbuild promote "$ref" --verdict "$out/verdict-$each.json" 2>&1 | tee "$out/promote.log"
  say "the store's names"
  cat "$store/oci/index.json" | tee "$out/index.json"
}

case $verb in
  take) take ;;
  prove) prove ;;
  *) sed -n '2,11p' "$0" >&2; exit 2 ;;
esac
