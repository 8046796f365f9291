#!/bin/bash
# A run on two "machines": network namespaces of this one, joined by a virtual cable, with nothing else in common but the
# disk. Needs root and iproute2.
#
#     benchmarks/namespaces.sh [config.yaml] [key=value ...]
#
# The head has room for the learner and the rewards, the worker for two samplers; every weight, image and trajectory
# crosses the cable. At the end the bytes that did are printed; the run is left in /tmp/ray-*.runs.
set -euo pipefail

folder=$(mktemp -d /tmp/ray-XXXXXX)  # short: Unix sockets below it have a length limit
head=reinoise-head worker=reinoise-worker
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_API_SERVER_ADDRESS=http://10.77.0.1:8265
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(24))")
export RAY_AUTH_TOKEN

stop() {
    kill "${nodes[@]}" && wait || true  # each `ray start --block` ends what it started
    ip netns del $worker
    ip netns del $head
    rm -rf "$folder"
}
nodes=()
trap stop EXIT

ip netns add $head
ip netns add $worker
ip link add cable netns $head type veth peer name cable netns $worker
ip -n $head address add 10.77.0.1/24 dev cable
ip -n $worker address add 10.77.0.2/24 dev cable
for namespace in $head $worker; do
    ip -n $namespace link set lo up
    ip -n $namespace link set cable up
done

start() {  # NAMESPACE OPTIONS...
    ip netns exec "$1" ray start --block --object-store-memory=200000000 --temp-dir="$folder/${#nodes[@]}" "${@:2}" \
        > "$folder.$1.log" 2>&1 &
    nodes+=($!)
}
start $head --head --port=6379 --node-ip-address=10.77.0.1 --dashboard-host=10.77.0.1 \
    --num-cpus=2 --labels=part=head
until ip netns exec $head ray job list > /dev/null 2>&1; do sleep 1; done
start $worker --address=10.77.0.1:6379 --node-ip-address=10.77.0.2 --num-cpus=2 --labels=part=worker

ip netns exec $head ray job submit --working-dir . --runtime-env deploy/runtime_env.yaml -- \
    python -m cluster.train "$@" folder="$folder.runs" samplers.count=2 "samplers.labels={part: worker}" \
    "learner.labels={part: head}" "reward_actors.labels={part: head}" failures.patience.room=60
ip netns exec $head cat /sys/class/net/cable/statistics/{rx,tx}_bytes |
    awk '{ printf "%s %.1f MB\n", NR == 1 ? "worker to head:" : "head to worker:", $1 / 1e6 }'
