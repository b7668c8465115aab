#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# buildah: a build whose steps run in containers, by Containerfile and by hand.
. "$(dirname "$0")/lib.sh"

echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$WORK/policy.json"
mkdir -p "$WORK/bin"
cat > "$WORK/bin/b" <<END
#!/bin/sh
exec buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver vfs "\$@"
END
printf '#!/bin/sh\nexec b run --isolation oci --runtime "%s" "$@"\n' "$RUNTIME" > "$WORK/bin/run"
chmod +x "$WORK/bin/b" "$WORK/bin/run"
export PATH="$WORK/bin:$PATH"

check "a container from nothing" sh -c "b from --name work scratch"
check "files are added" b add work "$ROOTFS" /
check "run prints what the program prints" says "hello" run work echo hello
check "the exit status of a step fails the step" refused "exit status 3" run work sh -c 'exit 3'
check "a step changes the root file system" run work sh -c 'echo built > /made'
check "a user is taken" says "uid=33" run --user 33 work id
check "a volume is mounted" says "kept" sh -c "echo kept > $WORK/file; run -v $WORK/file:/f:ro work cat /f"
check "a terminal is a terminal" sh_says "/dev/pts/" "script -qec 'run -t work tty' /dev/null"
check "capabilities are dropped" says "CapEff:	0000000000000000" run --cap-drop all work grep CapEff /proc/self/status
check "it is committed" b commit --signature-policy "$WORK/policy.json" work localhost/box
cat > "$WORK/Containerfile" <<END
FROM localhost/box
RUN test "\$(cat /made)" = built
RUN --mount=type=tmpfs,destination=/t touch /t/x && id > /who
USER 33
RUN id | grep uid=33
CMD ["cat", "/who"]
END
check "a Containerfile is built" b build --signature-policy "$WORK/policy.json" --isolation oci --runtime "$RUNTIME" \
    --network none --layers=false -t localhost/made -f "$WORK/Containerfile" "$WORK"
check "a step that fails fails the build" refused "exit status 5" sh -c "printf 'FROM localhost/box\nRUN exit 5\n' > $WORK/bad; \
    b build --signature-policy $WORK/policy.json \
    --isolation oci --runtime $RUNTIME --network none -f $WORK/bad $WORK"
check "nothing is listed" sh -c "[ -z \"\$($RUNTIME list -q)\" ]"
done_testing
