#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# podman: run, exec, logs, pause, healthcheck, pods, limits, update, volumes, users, and that nothing stays.
. "$(dirname "$0")/lib.sh"

mkdir -p "$WORK/etc"
cat > "$WORK/etc/containers.conf" <<END
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "$RUNTIME"
[containers]
netns = "none"
pids_limit = 200
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
END
echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$WORK/etc/policy.json"
export CONTAINERS_CONF="$WORK/etc/containers.conf"
mkdir -p "$WORK/bin"
cat > "$WORK/bin/p" <<END
#!/bin/sh
exec podman --runtime "$RUNTIME" --storage-driver vfs --root "$WORK/storage" --runroot "$WORK/run" --tmpdir "$WORK/tmp" "\$@"
END
chmod +x "$WORK/bin/p"
export PATH="$WORK/bin:$PATH"

check "an image is imported" p import "$ROOTFS" localhost/box
check "run prints what the program prints" says "hello" p run --rm localhost/box echo hello
check "the exit status is the program's" ends 7 p run --rm localhost/box sh -c 'exit 7'
check "a missing program is 127" ends 127 p run --rm localhost/box /no/such/program
check "what cannot be executed is 126" ends 126 p run --rm localhost/box /etc/passwd
check "stdin reaches the program" sh_says "through" "echo through | p run -i --rm localhost/box cat"
check "a terminal is a terminal" says "/dev/pts/0" p run -t --rm localhost/box tty
check "the user is the one that is asked for" says "uid=65534" p run --rm --user 65534:65534 localhost/box id
check "groups are added" says "7" p run --rm --group-add 7 localhost/box id -G
check "the environment is passed" says "word=yes" p run --rm --env word=yes localhost/box env
check "the host name is set" says "inside" p run --rm --hostname inside localhost/box hostname
check "a working directory is entered" says "/tmp" p run --rm --workdir /tmp localhost/box pwd
check "a read-only root refuses" refused "Read-only" p run --rm --read-only localhost/box touch /x
check "a volume is mounted" sh -c "echo kept > $WORK/file"
check "a bind mount shows the file" says "kept" p run --rm -v "$WORK/file:/f:ro" localhost/box cat /f
check "a bind mount is read-only" refused "Read-only" p run --rm -v "$WORK/file:/f:ro" localhost/box sh -c 'echo >> /f'
check "a tmpfs has its size" says "1024" p run --rm --tmpfs /t:size=1m localhost/box df -k /t
check "a tmpfs copies up" says "passwd" p run --rm --mount type=tmpfs,destination=/etc,tmpcopyup localhost/box ls /etc
check "capabilities are dropped" says "CapEff:	0000000000000000" \
    p run --rm --cap-drop all localhost/box grep CapEff /proc/self/status
check "a capability is added" says "CapEff:	0000000000002000" \
    p run --rm --cap-drop all --cap-add net_raw localhost/box grep CapEff /proc/self/status
check "privileged is run" p run --rm --privileged localhost/box true
check "no new privileges holds" says "NoNewPrivs:	1" \
    p run --rm --security-opt no-new-privileges localhost/box grep NoNewPrivs /proc/self/status
check "the seccomp default is loaded" says "Seccomp:	2" p run --rm localhost/box grep Seccomp: /proc/self/status
check "seccomp can be unconfined" says "Seccomp:	0" \
    p run --rm --security-opt seccomp=unconfined localhost/box grep Seccomp: /proc/self/status
check "rlimits are set" says "512" p run --rm --ulimit nofile=512:512 --ulimit nproc=4096:4096 localhost/box sh -c 'ulimit -n'
check "a sysctl is written" says "77" p run --rm --sysctl kernel.msgmax=77 localhost/box cat /proc/sys/kernel/msgmax
check "a device is there" says "0 /8" p run --rm --device /dev/random:/dev/mine localhost/box stat -c "0 /%T" /dev/mine
check "limits are taken" p run -d --name small --memory 32m --pids-limit 33 --cpus 0.5 localhost/box sleep 1000
group=$(sed -n 's/.*:memory:\|^0:://p' "/proc/$(p inspect --format '{{.State.Pid}}' small)/cgroup" | head -1)
check "the memory limit is the one" says "33554432" sh -c "cat /sys/fs/cgroup/memory$group/memory.limit_in_bytes 2> /dev/null || \
    cat /sys/fs/cgroup$group/memory.max"
check "so is the limit of processes" says "33" sh -c "cat /sys/fs/cgroup/pids$group/pids.max 2> /dev/null || \
    cat /sys/fs/cgroup$group/pids.max"
check "limits are changed" p update --cpus 0.25 small
check "its container goes" p rm -f -t 0 small
check "memory beyond the limit is killed" ends 137 \
    p run --rm --memory 16m --memory-swap 16m localhost/box sh -c 'dd if=/dev/zero of=/dev/null bs=64M'
check "an init is put before the program" says "PID" p run --rm localhost/box ps
check "idle containers run detached" p run -d --name idle localhost/box sh -c 'echo first; sleep 1000'
check "logs show what was said" until_ok 10 sh -c "p logs idle | grep first"
check "exec runs a program" says "uid=0" p exec idle id
check "exec tells the exit status" ends 9 p exec idle sh -c 'exit 9'
check "exec as another user" says "uid=33" p exec --user 33 idle id
check "exec with environment and directory" says "/tmp yes" p exec -e a=yes -w /tmp idle sh -c 'echo $PWD $a'
check "exec on a terminal" says "/dev/pts/" p exec -t idle tty
check "exec of what is missing is 127" ends 127 p exec idle /no/such
check "exec detached" p exec -d idle sleep 1000
check "top shows both" says "sleep" p top idle
check "pause" p pause idle
check "a paused container says so" says "paused" p inspect --format '{{.State.Status}}' idle
check "unpause" p unpause idle
check "stats are read" says "idle" p stats --no-stream --format '{{.Name}}' idle
check "kill sends a signal" p kill --signal USR1 idle
check "rename" p rename idle other
check "restart" p restart -t 0 other
check "files are copied in" p cp "$WORK/file" other:/copied
check "and are there" says "kept" p exec other cat /copied
check "stop" p stop -t 0 other
check "its exit status is kept" says "137" p inspect --format '{{.State.ExitCode}}' other
check "start again" p start other
check "wait gives the status" sh -c "p kill other > /dev/null; p wait other | grep 137"
check "rm" p rm other
check "a health check that holds is healthy" p run -d --name well --health-cmd 'test -e /etc/passwd' localhost/box sleep 1000
check "healthcheck run" p healthcheck run well
check "one that does not hold fails" sh -c "p run -d --name ill --health-cmd 'test -e /none' localhost/box sleep 1000 > /dev/null; \
  ! p healthcheck run ill"
check "a pod is made" p pod create --name pod --infra-image localhost/box --infra-command '/bin/sleep 1000' --share pid,ipc,uts
check "a container joins the pod" p run -d --pod pod --name member localhost/box sleep 1000
check "and sees the pod's processes" says "/bin/sleep" p exec member ps
check "a pod is paused and goes on" sh -c "p pod pause pod && p pod unpause pod"
check "a pod goes with its containers" p pod rm -f -t 0 pod
check "a user namespace is mapped" says "100000" p run --rm --uidmap 0:100000:5000 --gidmap 0:100000:5000 localhost/box \
    cat /proc/self/uid_map
check "everything is removed" p rm -f -t 0 --all
check "nothing is listed" sh -c "[ -z \"\$($RUNTIME list -q)\" ]"
done_testing
