#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# podman of a user without privilege: user namespaces by newuidmap, no cgroup to limit with, and that nothing stays.
. "$(dirname "$0")/lib.sh"

# The user is this machine's own: /etc is root's, so its files are covered by copies with one line more.
name=engines uid=4711
for file in passwd group subuid subgid; do
    cp "/etc/$file" "$WORK/$file"
done
echo "$name:x:$uid:$uid::$WORK/home:/bin/sh" >> "$WORK/passwd"
echo "$name:x:$uid:" >> "$WORK/group"
echo "$name:300000:65536" | tee -a "$WORK/subuid" >> "$WORK/subgid"
for file in passwd group subuid subgid; do
    mount -n --bind "$WORK/$file" "/etc/$file"
done
mkdir -p "$WORK/home" "$WORK/run" "$WORK/bin"
if ! setpriv --reuid=$uid --regid=$uid --clear-groups test -x "$RUNTIME"; then
    cp "$RUNTIME" "$WORK/bin/runtime" # one file, where the user may look
    RUNTIME=$WORK/bin/runtime
fi
cat > "$WORK/containers.conf" <<END
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "$RUNTIME"
[containers]
netns = "none"
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
END
mkdir -p "$WORK/home/.config/containers"
echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$WORK/home/.config/containers/policy.json"
chown -R "$uid:$uid" "$WORK/home" "$WORK/run"
chmod 700 "$WORK/run"
cat > "$WORK/bin/p" <<END
#!/bin/sh
cd "$WORK/home"
exec setpriv --reuid=$uid --regid=$uid --clear-groups \
    env -i HOME="$WORK/home" USER=$name PATH="\$PATH" XDG_RUNTIME_DIR="$WORK/run" CONTAINERS_CONF="$WORK/containers.conf" \
    podman --runtime "$RUNTIME" --storage-driver vfs "\$@"
END
chmod +x "$WORK/bin/p"
export PATH="$WORK/bin:$PATH"

check "an image is imported by the user" p import "$ROOTFS" localhost/box
check "the user is root inside" says "uid=0" p run --rm localhost/box id
check "the ids are those that are lent" says "300000" p run --rm localhost/box cat /proc/self/uid_map
check "another user inside" says "uid=33" p run --rm --user 33 localhost/box id
check "the user keeps his id" says "uid=$uid" p run --rm --userns keep-id localhost/box id
check "the exit status is the program's" ends 7 p run --rm localhost/box sh -c 'exit 7'
check "a missing program is 127" ends 127 p run --rm localhost/box /no/such/program
check "stdin reaches the program" sh_says "through" "echo through | p run -i --rm localhost/box cat"
check "a terminal is a terminal" says "/dev/pts/0" p run -t --rm localhost/box tty
check "a read-only root refuses" refused "Read-only" p run --rm --read-only localhost/box touch /x
check "a volume is the user's" sh -c "p run --rm -v $WORK/home:/mine localhost/box touch /mine/made && \
    [ \$(stat -c %u $WORK/home/made) = $uid ]"
check "an image's file is written" p run --rm localhost/box sh -c 'echo more >> /etc/passwd'
check "a container runs detached" p run -d --name idle localhost/box sh -c 'echo first; sleep 1000'
check "logs show what was said" until_ok 10 sh -c "p logs idle | grep first"
check "exec runs a program" says "uid=0" p exec idle id
check "exec tells the exit status" ends 9 p exec idle sh -c 'exit 9'
check "stop" p stop -t 0 idle
check "its exit status is kept" says "137" p inspect --format '{{.State.ExitCode}}' idle
check "start again" p start idle
check "a health check that holds is healthy" p run -d --name well --health-cmd 'test -e /etc/passwd' localhost/box sleep 1000
check "healthcheck run" p healthcheck run well
check "everything is removed" p rm -f -t 0 --all
check "nothing is listed" sh -c "[ -z \"\$(p ps -aq)\" ]"
umount -n /etc/passwd /etc/group /etc/subuid /etc/subgid
done_testing
