#!/usr/bin/env bash
# soak.sh [MINUTES]: several writers of two principals make, replace, append to, rename and remove files, while the daemon is
# killed again and again; after every kill each file must be as its last finished operation left it, or as the one under way
# would have. Prints the seed; SEED=… repeats the same decisions.
KMSFS=${KMSFS:-$(cd "$(dirname "$0")/.." && pwd)/bin/kmsfs}
. "$(dirname "$0")/lib.sh"
needs_root
seed=${SEED:-$RANDOM}
note "seed $seed"
RANDOM=$seed

new_store
works kmsfs principal create second --uid 0 --policy AdministratorAccess
works kmsfs key create --alias k
works kmsfs bucket create plain
works kmsfs bucket create sealed --sse aws:kms:alias/k

cat >"$T/worker.py" <<'EOF'
# worker.py DIR JOURNAL SEED: works until the mount dies. The journal (on the ordinary disk) has a line before and after each
# operation: what the named file must hold then (a hash), or null if it must not exist.
import hashlib, json, os, random, sys
where, journal, seed = sys.argv[1], open(sys.argv[2], "a", buffering=1), int(sys.argv[3])
rnd = random.Random(seed)
me = f"w{seed}-"
held = {}
def say(state, **names):
    journal.write(json.dumps({"s": state, "n": names["names"]}) + "\n")
def h(b): return hashlib.sha256(b).hexdigest() if b is not None else None
def write(path, data, flags):
    fd = os.open(path, flags, 0o644)
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, data[done:done + rnd.choice((100, 4096, 65536, 1 << 20))])
        if rnd.random() < 0.2:
            os.fsync(fd)
    finally:
        os.close(fd)
try:
    while True:
        op, name = rnd.random(), f"{me}{rnd.randrange(40)}"
        data = rnd.randbytes(rnd.choice((0, 10, 4096, 20_000, 300_000)) + rnd.randrange(50))
        p = f"{where}/{name}"
        if op < 0.45:  # a new content by write and rename
            tmp = p + ".tmp"
            write(tmp, data, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            say("i", names={name: h(data)})
            os.rename(tmp, p)
            held[name] = data
        elif op < 0.65 and name in held:  # append
            say("i", names={name: h(held[name] + data), "partial": name})
            write(p, data, os.O_WRONLY | os.O_APPEND)
            held[name] += data
        elif op < 0.8 and name in held:  # rename
            to = f"{me}{rnd.randrange(40)}"
            if to == name:
                continue
            say("i", names={name: None, to: h(held[name])})
            os.rename(p, f"{where}/{to}")
            held[to] = held.pop(name)
            say("d", names={name: None, to: h(held[to])})
            continue
        elif op < 0.9 and name in held:
            say("i", names={name: None})
            os.unlink(p)
            held.pop(name)
        else:
            continue
        say("d", names={name: h(held.get(name))})
except OSError:
    pass
EOF
cat >"$T/verify.py" <<'EOF'
# verify.py DIR JOURNAL: every file is as its last finished operation left it, or as the one under way would have.
import hashlib, json, os, sys
where = sys.argv[1]
may, partial = {}, set()
for line in open(sys.argv[2]):
    try:
        e = json.loads(line)
    except ValueError:
        continue
    names = e["n"]
    torn = names.pop("partial", None)
    for n, h in names.items():
        if e["s"] == "i":
            may.setdefault(n, {None}).add(h)
        else:
            may[n] = {h}
    partial = {torn} if e["s"] == "i" and torn else set()
bad = 0
for n, want in may.items():
    try:
        got = hashlib.sha256(open(f"{where}/{n}", "rb").read()).hexdigest()
    except FileNotFoundError:
        got = None
    if got not in want and n not in partial:  # an append under way may have come through in part
        print(f"{n}: {got} is none of {want}")
        bad += 1
print(f"{len(may)} files looked at")
sys.exit(bad > 0)
EOF

kill_daemon() {
  local p
  for p in $(daemons); do
    tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q supervise || kill -9 "$p" 2>/dev/null
  done
}

# up PRINCIPAL DIR: mounted, by a living daemon.
up() {
  is_mounted "$2" && stat "$2" >/dev/null 2>&1 && return
  eventually 20 kmsfs mount --principal "$1" "$2" || die "mount: $(cat "$T/.io/err")"
}

mkdir -p "$T/m1" "$T/m2"
end=$((SECONDS + ${1:-10} * 60)) round=0
while [ "$SECONDS" -lt "$end" ]; do
  round=$((round + 1))
  up admin "$T/m1"
  up second "$T/m2"
  pids=""
  for w in 1 2 3 4; do
    m=$T/m$((w % 2 + 1)) bucket=$([ "$w" -le 2 ] && echo plain || echo sealed)
    mkdir -p "$m/$bucket/$round"
    /usr/bin/python3 "$T/worker.py" "$m/$bucket/$round" "$T/journal-$round-$w" $((seed * 1000 + round * 10 + w)) &
    pids="$pids $!"
  done
  sleep $((RANDOM % 8 + 2))
  kill_daemon
  for p in $pids; do eventually 30 fails kill -0 "$p" || die "a worker hangs"; done
  up admin "$T/m1"
  for w in 1 2 3 4; do
    bucket=$([ "$w" -le 2 ] && echo plain || echo sealed)
    works /usr/bin/python3 "$T/verify.py" "$T/m1/$bucket/$round" "$T/journal-$round-$w"
  done
  works kmsfs fsck --data
  [ $((round % 5)) -ne 0 ] || works rm -rf "$T/m1/plain/$round" "$T/m1/sealed/$round"
  [ "$failures" -eq 0 ] || break
done
note "$round rounds"
works kmsfs audit verify
