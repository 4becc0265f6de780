#!/bin/sh
# DeepSpeed over two nodes, shown with two containers of one machine: a GPU each, a network between them, SSH by key.
#
#   IMAGE=pytorch-cuda:v2.7 two-nodes/two_nodes.sh              GPUs 0 and 1
#   IMAGE=pytorch-cuda:v2.7 two-nodes/two_nodes.sh --cpu        without a GPU: gloo
#
# On two real machines the same: start the container on each with `--network host` and the same key (ENVBUILD_SSH_PORT
# where the machine's own sshd has port 22), put their names into the hostfile, and run the last command on one of them.
# What is given here goes to train.py; DOCKER_OPTIONS holds further options of `docker run`. The image needs its part `ssh`.
set -eu
: "${IMAGE:?name the image: IMAGE=pytorch-cuda:v2.7 $0}"
examples=$(cd "$(dirname "$0")/.." && pwd)
name=two-nodes-$$ # of the network, the volume and, with a number, the containers
gpus=yes
case " $* " in *" --cpu "*) gpus=no ;; esac
nccl=$(env | sed -n 's/^\(NCCL_[A-Z0-9_]*\)=.*/-e \1/p') # what the machine's operator set holds inside, too

# Whatever happens: nothing stays.
trap 'docker rm --force --volumes "$name-1" "$name-2" >/dev/null 2>&1 || true
      docker volume rm "$name" >/dev/null 2>&1 || true
      docker network rm "$name" >/dev/null 2>&1 || true' EXIT
trap 'exit 130' INT TERM

docker network create "$name" >/dev/null
docker volume create "$name" >/dev/null
# One key for the cluster, made for this run, in a volume that both mount.
docker run --rm -v "$name":/root/.ssh "$IMAGE" ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519

for node in 1 2; do
    device=
    [ "$gpus" = no ] || device="--gpus device=$((node - 1))"
    # shellcheck disable=SC2086  # each holds nothing, or several words
    docker run --detach --name "$name-$node" --hostname "node$node" --network "$name" --network-alias "node$node" \
        $device --shm-size 8g \
        -e ENVBUILD_AUTHORIZED_KEYS_FILE=/root/.ssh/id_ed25519.pub -e ENVBUILD_SSH_CLUSTER="node1 node2" \
        $nccl ${DOCKER_OPTIONS:-} -v "$name":/root/.ssh:ro -v "$examples":/workspace "$IMAGE" envbuild-sshd >/dev/null
done

# The launcher logs in on both, itself included, and starts a process a slot.
docker exec --workdir /workspace/deepspeed "$name-1" \
    deepspeed --hostfile /workspace/two-nodes/hostfile --master_addr node1 --master_port 29500 \
    train.py --deepspeed_config ds_config.json --checkpoint /tmp/checkpoint "$@"
