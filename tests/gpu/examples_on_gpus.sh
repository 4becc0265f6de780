#!/usr/bin/env bash
# Run every example and every command of docs/seed-commands.md that says "2 GPUs", as it stands there, and say which passed.
#
#   tests/gpu/examples_on_gpus.sh             here, on two GPUs, with the python, torchrun and deepspeed of PATH
#   tests/gpu/examples_on_gpus.sh --cpu       the lines that say "CPU", with --cpu and small sizes added (no GPU needed)
#   tests/gpu/examples_on_gpus.sh --list      what would run
#
# In an image, mount the repository and run it there:
#   envbuild run --gpus all -v "$PWD":/repo pytorch-cuda:v2.11 -- bash /repo/tests/gpu/examples_on_gpus.sh
#
# ONLY=TEXT runs the lines that contain TEXT; LIMIT=SECONDS is each line's time (150; 900 with --cpu); OUT=FOLDER keeps
# the logs and, as JSON, what benchmark_comm.py measured. It works in a copy of examples/.
# Exit: 0 all passed, 1 not all, 2 wrong usage or too few GPUs.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
word="2 GPUs" limit=${LIMIT:-150}
case "${1:-}" in
"") ;;
--cpu) word=CPU limit=${LIMIT:-900} ;;
--list) exec python "$root/tests/seedtable.py" "$word" ;;
*)
    echo "unknown option $1 (--cpu, --list)" >&2
    exit 2
    ;;
esac

work=$(mktemp -d)
logs=${OUT:-$work/logs}
mkdir -p "$logs"
trap 'rm -rf "$work"' EXIT
cp -r "$root/examples" "$work/examples"
passed=0 failed=0 number=0

if [ "$word" = CPU ]; then
    # One thread a process, or they wait for each other; and as many "accelerators" as --include localhost:0,1 names.
    export OMP_NUM_THREADS=1 LOCAL_SIZE=2
else
    seen=$(python -c "import torch; print(torch.cuda.device_count())" 2>&1 | tail -n 1)
    if ! [ "$seen" -ge 2 ] 2>/dev/null; then
        echo "two GPUs are needed; torch sees: $seen" >&2
        exit 2
    fi
    export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0,1}
fi

# What a line that says "no" must say when it fails: failing for another reason is a failure of the page.
reason() {
    case "$1" in
    *auto.json*) echo "not supported between instances of 'str' and 'int'" ;;
    *distributed.launch*) echo "unrecognized arguments: --local-rank" ;;
    *) echo "command not found" ;;
    esac
}

# The command as it is run: on the CPU the examples are asked for it, and made small.
spelled() {
    local command=$1
    [ "$word" = CPU ] && case "$command" in
    *ddp_resnet50.py*) command+=" --cpu --steps 2 --batch 2 --image-size 32 --workers 1" ;;
    *benchmark_comm.py*) command+=" --cpu --max-bytes 1M --repeats 2 --width 64 --layers 1 --batch 1" ;;
    *train.py*) command+=" --cpu --steps 2" ;;
    "pip install PACKAGE") command="PIP_NO_INDEX=1 PIP_FIND_LINKS=$work/wheels pip install seedpackage" ;;
    esac
    printf '%s' "$command"
}

# result NAME WORKS STATUS LOG SECONDS
result() {
    local good=no
    if [ "$2" = yes ]; then
        [ "$3" = 0 ] && good=yes
    elif [ "$3" != 0 ] && grep -qF "$(reason "$1")" "$4"; then
        good=yes
    fi
    if [ "$good" = yes ]; then
        passed=$((passed + 1))
        printf 'pass  %4d s  %s\n' "$5" "$1"
        grep -E '^(step .*loss|[0-9]+ process\(es\)|all_reduce|not_hidden|[0-9,]+ float32)' "$4" | tail -n 4 | sed 's/^/              /'
    else
        failed=$((failed + 1))
        printf 'FAIL  %4d s  %s (status %s)\n' "$5" "$1" "$3"
        tail -n 25 "$4" | sed 's/^/      | /'
    fi
}

# try FOLDER WORKS COMMAND
try() {
    local log began status
    number=$((number + 1))
    log=$logs/$(printf '%02d' "$number").log
    began=$SECONDS
    (cd "$work/examples/$1" && exec timeout --kill-after 10 "$limit" bash -c "$(spelled "$3")") >"$log" 2>&1 </dev/null
    status=$?
    result "$3" "$2" "$status" "$log" $((SECONDS - began))
}

# Jupyter is a server: it must answer over HTTP, and only who has the token gets in.
try_server() {
    local log=$logs/jupyter.log began=$SECONDS status server
    (cd "$work/examples" && exec bash -c "exec $1") >"$log" 2>&1 </dev/null &
    server=$!
    timeout "$limit" python - >>"$log" 2>&1 <<'END'
import time, urllib.error, urllib.request
while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:8888/api/sessions")
        raise SystemExit("everyone gets in")
    except urllib.error.HTTPError as error:
        print("answers", error.code)
        raise SystemExit(0 if error.code == 403 else f"status {error.code}")
    except OSError:
        time.sleep(0.5)
END
    status=$?
    kill "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    result "$1" yes "$status" "$log" $((SECONDS - began))
}

# Two nodes without SSH: each its own launcher and GPU. NCCL_HOSTID makes NCCL take them for two machines, so that it
# uses the network; one that is set already stays.
try_nodes() {
    local command=$1 began=$SECONDS log status=0 node port=29600 nodes=()
    number=$((number + 1))
    log=$logs/$(printf '%02d' "$number").log
    : >"$log"
    printf 'node1 slots=2\nnode2 slots=2\n' >"$work/examples/deepspeed/hostfile"
    command=${command//node1/127.0.0.1}
    for node in 0 1; do
        case "$command" in
        deepspeed*)
            line=${command/--node_rank 0/--node_rank $node --master_port $port --include node1:0@node2:1}
            folder=deepspeed visible=${CUDA_VISIBLE_DEVICES:-}
            ;;
        *)
            line=${command/--node_rank=0/--node_rank=$node}
            folder=. visible=$(cut -d, -f$((node + 1)) <<<"${CUDA_VISIBLE_DEVICES:-}")
            ;;
        esac
        (cd "$work/examples/$folder" && export NCCL_HOSTID=${NCCL_HOSTID:-node$node} NCCL_DEBUG=${NCCL_DEBUG:-INFO} &&
            export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo} CUDA_VISIBLE_DEVICES=$visible &&
            exec timeout --kill-after 10 "$limit" bash -c "$(spelled "$line")") >>"$log" 2>&1 </dev/null &
        nodes+=($!)
    done
    for node in "${nodes[@]}"; do
        wait "$node" || status=$?
    done
    result "$1" yes "$status" "$log" $((SECONDS - began))
    grep -o 'via [A-Z0-9]*/[A-Za-z0-9/]*' "$log" | sort | uniq -c | sed 's/^ */              /'
}

# What the lines need besides the examples: a config with "auto", and a wheel for pip.
python - "$work" <<'END'
import json, pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
config = json.loads((work / "examples/deepspeed/ds_config.json").read_text())
config |= {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}
(work / "examples/deepspeed/auto.json").write_text(json.dumps(config))
(work / "wheels").mkdir()
info = "seedpackage-1.0.dist-info"
with zipfile.ZipFile(work / "wheels/seedpackage-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("seedpackage.py", "")
    wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: seedpackage\nVersion: 1.0\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", f"seedpackage.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
END

while IFS=$'\t' read -r folder works command <&3; do
    case "$command" in *"${ONLY:-}"*) ;; *) continue ;; esac
    case "$command" in
    "jupyter lab"*) try_server "$command" ;;
    *node_rank*) try_nodes "$command" ;;
    *) try "$folder" "$works" "$command" ;;
    esac
done 3< <(python "$root/tests/seedtable.py" "$word")

echo "passed $passed, failed $failed, $SECONDS s"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
