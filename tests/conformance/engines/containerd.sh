#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# containerd through ctr and the shim: run, tasks, exec, signals, pause, limits, checkpoints refused, and the end.
. "$(dirname "$0")/lib.sh"

cat > "$WORK/config.toml" <<END
version = 2
root = "$WORK/root"
state = "/run/cd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]
[grpc]
address = "/run/cd/sock"
END
mkdir -p /run/cd
export PATH="$PROGRAMS:$PATH"
containerd --config "$WORK/config.toml" > "$WORK/containerd.log" 2>&1 &
daemon=$!
c() { ctr --address /run/cd/sock "$@"; }
# each runtime has its own root, as containerd has one for each namespace
r() { c run --runtime io.containerd.runc.v2 --runc-binary "$RUNTIME" --snapshotter native "$@"; }

check "the daemon answers" until_ok 30 c version
check "an image is imported" c image import --no-unpack "$IMAGE"
box=$(c image ls -q | head -1)
check "run prints what the program prints" says "hello" r --rm "$box" one echo hello
check "the exit status is the program's" ends 7 r --rm "$box" two sh -c 'exit 7'
check "what is missing is named" refused "no/such" r --rm "$box" three /no/such
check "a detached task runs" r -d "$box" idle sleep 1000
check "it is listed" says "RUNNING" c task ls
check "exec runs a program" says "uid=0" c task exec --exec-id e1 idle id
check "exec tells the exit status" ends 9 c task exec --exec-id e2 idle sh -c 'exit 9'
check "exec names what is missing" refused "no/such" c task exec --exec-id e3 idle /no/such
check "a detached exec" c task exec -d --exec-id e4 idle sleep 1000
check "its processes are listed" says "e4" c task ps idle
check "pause" c task pause idle
check "a paused task says so" says "PAUSED" c task ls
check "resume" c task resume idle
check "metrics are read" says "idle" c task metrics idle
check "a signal ends it" c task kill --signal SIGKILL --all idle
check "it has stopped" until_ok 10 sh -c "ctr --address /run/cd/sock task ls | grep STOPPED"
check "its status is told when it is deleted" says "137" c task delete idle
check "the container is deleted" c container delete idle
check "limits are set" r -d --memory-limit 33554432 --cpu-quota 50000 --cpu-period 100000 "$box" small sleep 1000
check "the memory limit is the one" says "33554432" sh -c "cat /sys/fs/cgroup/memory/default/small/memory.limit_in_bytes \
    /sys/fs/cgroup/default/small/memory.max 2>/dev/null || true"
check "a terminal is a terminal" sh_says "/dev/pts/" "script -qec 'ctr --address /run/cd/sock run -t --rm --snapshotter native \
    --runc-binary $RUNTIME $box term tty' /dev/null"
check "a read-only root refuses" refused "Read-only" r --rm --read-only "$box" ro touch /x
check "a mount is there" says "kept" sh -c "echo kept > $WORK/file; ctr --address /run/cd/sock run --rm --snapshotter native \
    --runc-binary $RUNTIME --mount type=bind,src=$WORK/file,dst=/f,options=rbind:ro $box mounted cat /f"
check "seccomp is loaded" says "Seccomp:	2" r --rm --seccomp "$box" filtered grep Seccomp: /proc/self/status
check "privileged is run" r --rm --privileged "$box" free true
check "the host's network is joined" says "lo" r --rm --net-host "$box" net ip link
check "killed like that it is gone" c task kill --signal KILL small
check "and forgotten" until_ok 10 ctr --address /run/cd/sock task delete --force small
kill $daemon
wait $daemon
done_testing
