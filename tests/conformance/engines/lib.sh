# SPDX-License-Identifier: Apache-2.0
# What the scripts of the engines share: each check is a sentence and a command, and prints one line of TAP.
# Given: $RUNTIME the OCI runtime's path, $ROOTFS a tar of a small root file system, $WORK a folder of our own.
failed=0
number=0

# check SENTENCE COMMAND...: it must succeed.
check() {
    number=$((number + 1))
    sentence=$1
    shift
    if "$@" > "$WORK/said" 2>&1; then
        echo "ok $number - $sentence"
    else
        echo "not ok $number - $sentence (status $?): $(tail -c 600 "$WORK/said" | tr '\n' ' ')"
        failed=1
    fi
}

# says EXPECTED COMMAND...: what it prints holds the expected text.
says() {
    expected=$1
    shift
    said=$("$@" 2>&1) || { status=$?; echo "$said"; return $status; }
    case $said in
    *"$expected"*) return 0 ;;
    *) echo "expected $expected in: $said"; return 1 ;;
    esac
}

# ends STATUS COMMAND...: it ends with that status.
ends() {
    wanted=$1
    shift
    "$@"
    status=$?
    [ "$status" = "$wanted" ] || { echo "ended with $status instead of $wanted"; return 1; }
}

# refused TEXT COMMAND...: it fails and says so.
refused() {
    expected=$1
    shift
    if said=$("$@" 2>&1); then echo "should fail, but said: $said"; return 1; fi
    case $said in
    *"$expected"*) return 0 ;;
    *) echo "expected $expected in: $said"; return 1 ;;
    esac
}

# until_ok SECONDS COMMAND...: ask again until it succeeds.
until_ok() {
    left=$(($1 * 10))
    shift
    while ! "$@" > /dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { "$@"; return 1; }
        sleep 0.1
    done
}

sh_says() { says "$1" sh -c "$2"; }

done_testing() {
    echo "1..$number"
    exit $failed
}
