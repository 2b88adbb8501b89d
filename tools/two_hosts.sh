#!/usr/bin/env bash
# A run on two hosts that this machine plays: two network namespaces, a cable between them, and one
# gloo rank in each. They share the disk, and reach each other through the cable alone.
#
#   sudo PYTHON=.venv/bin/python tools/two_hosts.sh -c configs/trainer/cpu.yaml ... --trainer.strategy ddp
#
# The words are those of `clipkit fit`. Needs Linux, iproute2 and the right to make namespaces; where
# that is not given, it ends with status 77.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
id=$$
host_a=clipkit-a-$id host_b=clipkit-b-$id
cable_a=cka$id cable_b=ckb$id

pids=()
# shellcheck disable=SC2329  # by the trap
clean_up() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    ip netns del "$host_a" 2>/dev/null || true
    ip netns del "$host_b" 2>/dev/null || true
}
trap clean_up EXIT
trap 'exit 143' TERM INT

build_hosts() {
    ip netns add "$host_a" && ip netns add "$host_b" &&
        ip link add "$cable_a" netns "$host_a" type veth peer name "$cable_b" netns "$host_b"
}
if ! build_hosts 2>/dev/null; then
    echo "two_hosts: this machine allows no network namespaces (root and iproute2 are needed)" >&2
    exit 77
fi
ip -n "$host_a" address add 10.77.0.1/30 dev "$cable_a"
ip -n "$host_b" address add 10.77.0.2/30 dev "$cable_b"
for end in "$host_a $cable_a" "$host_b $cable_b"; do
    read -r host cable <<<"$end"
    ip -n "$host" link set lo up
    ip -n "$host" link set "$cable" up
done

start_host() { # NAMESPACE CABLE RANK WORDS...
    local host=$1 cable=$2 rank=$3
    shift 3
    NNODES=2 NODE_RANK=$rank PER_NODE=1 MASTER_ADDR=10.77.0.1 GLOO_SOCKET_IFNAME=$cable \
        ip netns exec "$host" "$here/multi_node.sh" "$@" &
    pids+=($!)
}
start_host "$host_a" "$cable_a" 0 "$@"
start_host "$host_b" "$cable_b" 1 "$@"

status=0
for pid in "${pids[@]}"; do
    wait "$pid" || status=$?
done
pids=()
exit "$status"
