#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# conmon as CRI-O and podman start it: create, start, logs, exec, terminals, exit files, and what it hears of failures.
. "$(dirname "$0")/lib.sh"

bundle=$WORK/bundle
mkdir -p "$bundle/rootfs" "$WORK/exits" "$WORK/attach"
tar -xf "$ROOTFS" -C "$bundle/rootfs"
root=$WORK/state
rt() { "$RUNTIME" --root "$root" "$@"; }

# config ARGS-AS-JSON TERMINAL
config() {
    rm -f "$bundle/config.json"
    (cd "$bundle" && "$RUNTIME" spec)
    python3 - "$bundle/config.json" "$1" "$2" <<'END'
import json, sys
path, args, terminal = sys.argv[1:]
config = json.load(open(path))
config["process"]["args"] = json.loads(args)
config["process"]["terminal"] = terminal == "true"
json.dump(config, open(path, "w"))
END
}

# monitor ID OPTIONS...: conmon's answer (the pid, or an error) comes over a pipe
monitor() {
    id=$1
    shift
    _OCI_SYNCPIPE=3 conmon --api-version 1 -c "$id" -u "$id" -n "$id" -r "$RUNTIME" -b "$bundle" \
        -p "$WORK/$id.pid" -l "k8s-file:$WORK/$id.log" --exit-dir "$WORK/exits" --socket-dir-path "$WORK/attach" \
        --runtime-arg --root --runtime-arg "$root" --runtime-arg --log-format=json --runtime-arg --log \
        --runtime-arg "$WORK/$id.runtime-log" "$@" 3> "$WORK/$id.sync" > "$WORK/$id.conmon" 2>&1
    until_ok 30 test -s "$WORK/$id.sync" # it goes to the background before the container is there
}

config '["sh", "-c", "echo out; echo err >&2; sleep 0.2; exit 4"]' false
check "create answers" monitor one
check "conmon heard the pid of the init" grep -q '"pid"\|"data"' "$WORK/one.sync"
check "the container is created" says '"created"' rt state one
check "start" rt start one
check "its exit status is in the exit file" until_ok 20 grep -qx 4 "$WORK/exits/one"
check "stdout is in the log" grep -q 'stdout F out' "$WORK/one.log"
check "stderr is in the log" grep -q 'stderr F err' "$WORK/one.log"
check "delete" until_ok 10 rt delete one

config '["sleep", "1000"]' false
monitor two
check "a second container starts" rt start two
cat > "$WORK/process.json" <<'END'
{"args": ["sh", "-c", "echo from exec; exit 6"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
END
_OCI_SYNCPIPE=3 conmon --api-version 1 -c two -u two-exec -n two -r "$RUNTIME" -b "$bundle" -e \
    --exec-process-spec "$WORK/process.json" -p "$WORK/exec.pid" -l "k8s-file:$WORK/exec.log" \
    --exit-dir "$WORK/exits" --socket-dir-path "$WORK/attach" --runtime-arg --root \
    --runtime-arg "$root" 3> "$WORK/exec.sync" > "$WORK/exec.conmon" 2>&1
check "exec's output is in its log" until_ok 20 grep -q 'stdout F from exec' "$WORK/exec.log"
check "exec's status is told" until_ok 20 sh -c "grep -qx 6 $WORK/exits/two-exec || grep -q 6 $WORK/exec.sync"
check "kill by name" rt kill two KILL
check "a killed container has status 137" until_ok 20 grep -qx 137 "$WORK/exits/two"
check "delete after kill" rt delete --force two

config '["tty"]' true
monitor three -t
check "a terminal is handed over" rt start three
check "and is a terminal" until_ok 20 grep -q '/dev/pts/' "$WORK/three.log"
check "its exit status is told" until_ok 20 grep -qx 0 "$WORK/exits/three"
check "delete the one with a terminal" until_ok 10 rt delete three

config '["/no/such/program"]' false
monitor four
check "conmon hears why a create failed" sh -c "cat $WORK/four.sync $WORK/four.runtime-log | grep -q 'no/such/program' || \
    { $RUNTIME --root $root start four 2>&1 | grep -q no/such/program; }"
rt delete --force four > /dev/null 2>&1
check "nothing is listed" sh -c "[ -z \"\$($RUNTIME --root $root list -q)\" ]"
done_testing
