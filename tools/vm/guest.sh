# Sourced by the scripts beside it: a guest that is started, watched and ended.
#
# guest_start NAME IMAGE TASK   boots IMAGE in the background; TASK is what writer.c is told
# guest_wait NAME PATTERN SECS  until a line of its console matches
# guest_kill NAME               SIGKILL
# Console lines are in $work/NAME.console, each behind the host's time in seconds when it came.

accel=${ACCEL:-tcg}

guest_start() {
    local name=$1 image=$2 task=$3
    : >"$work/$name.console"
    mkfifo "$work/$name.fifo"
    (while IFS= read -r line; do printf '%s %s\n' "$EPOCHREALTIME" "${line%$'\r'}"; done \
        <"$work/$name.fifo" >>"$work/$name.console") &
    qemu-system-x86_64 -accel "$accel" -cpu max -smp 1 -m 256 -nodefaults -display none -no-reboot \
        -drive "file=$image,if=none,id=d0,format=raw,cache=none,aio=threads,discard=unmap" \
        -device virtio-blk-pci,drive=d0,serial=d0,bootindex=1 -serial "file:$work/$name.fifo" \
        -smbios "type=1,version=$task" -pidfile "$work/$name.pid" </dev/null 2>"$work/$name.qemu" &
    disown
}

guest_wait() {
    local name=$1 pattern=$2 until=$((SECONDS + $3))
    until grep -qE "$pattern" "$work/$name.console"; do
        if [ $SECONDS -ge $until ]; then
            echo "guest $name: no line like '$pattern' in $3 s; its console ends:" >&2
            tail -n 5 "$work/$name.console" "$work/$name.qemu" >&2
            return 1
        fi
        sleep 0.1
    done
}

guest_kill() {
    local pid
    pid=$(cat "$work/$1.pid" 2>/dev/null) || return 0
    kill -9 "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    rm -f "$work/$1.fifo" "$work/$1.pid"
}

# The newest committed row whose line had come at host time $2 (seconds), or at all.
guest_newest() {
    awk -v until="${2:-9999999999}" '$2 == "COMMIT" && $1 <= until { n = $3 } END { print n + 0 }' "$work/$1.console"
}

# Lines of the guest's kernel about its disk that must not be there.
guest_errors() {
    grep -E 'I/O error|EXT4-fs (error|warning)|Buffer I/O|blk_update|critical|reset|Remounting|timed out' "$work/$1.console" || true
}
