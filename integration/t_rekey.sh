#!/usr/bin/env bash
# From keys to files and back: what is under a key, in whatever bucket and state; every file of a key re-wrapped, also if
# the command is interrupted or the daemon killed in the middle; content sealed anew; a key that still has files deleted
# only by who knows how many.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
new_store
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
works kmsfs serve
old=$(kmsfs key create --alias old)
new=$(kmsfs key create --alias new)
account=arn:aws:kms:us-east-1:000000000000:key
for b in one two; do works kmsfs bucket create $b --sse aws:kms:alias/old; done
works kmsfs bucket create plain
mount_for admin "$T/admin"
m=$T/admin

python "1,500 files, five hundred of them in each of three directories" "$m" <<'EOF2'
import os, sys
for d in ("one/a", "one/b", "two/c"):
    os.mkdir(f"{sys.argv[1]}/{d}")
    for i in range(500):
        with open(f"{sys.argv[1]}/{d}/f{i}", "w") as f:
            f.write(f"{d} {i}\n")
EOF2
works sh -c "ln $m/one/a/f1 $m/one/hard-link; echo p >$m/plain/p; setfattr -n user.s3.sse -v aws:kms:alias/old $m/plain/p"

# held: a process with a file that it writes, and one that it has deleted, until its standard input ends.
/usr/bin/python3 - "$m" "$T/held" <<'EOF2' &
import os, sys, time
top, flag = sys.argv[1:]
log = open(f"{top}/two/log", "w")
log.write("first\n")
log.flush()
gone = open(f"{top}/two/gone", "w+")
gone.write("deleted and open\n")
gone.flush()
os.unlink(f"{top}/two/gone")
open(flag, "w").close()
while not os.path.exists(flag + ".done"):
    time.sleep(0.05)
log.write("second\n")
log.close()
gone.seek(0)
open(flag + ".read", "w").write(gone.read())
EOF2
held=$!
within 20 test -e "$T/held"

story "what is under the key: every bucket, one name of each file, and what has no name"
same "files under the key" 1502 "$(kmsfs key files alias/old 2>"$T/count" | wc -l)"
prints "kmsfs: and 1 that are open and have no name
kmsfs: 1503 files" cat "$T/count"
matches '"nameless":1' kmsfs --json key files alias/old
matches 'plain/p' kmsfs key files "$old"
prints 0 sh -c "kmsfs key files alias/new 2>/dev/null | wc -l"
# alice has no right to look at the key at all
exits 1 "not authorized" as alice kmsfs key files alias/old

story "a dry run changes nothing"
same "lines of a dry run" 1503 "$(kmsfs rekey --from alias/old --to alias/new --dry-run 2>"$T/count" | wc -l)"
matches '^kmsfs: 1503 to re-key' cat "$T/count"
same "still under the key" 1502 "$(kmsfs key files alias/old 2>/dev/null | wc -l)"

story "interrupted, and begun again: what was done is done"
# The command is interrupted when it has told its first progress; a machine so fast that it was over tries the way back.
cat >"$T/interrupt.py" <<'EOF2'
import os, signal, subprocess, sys, time
how, store = sys.argv[1:]
def left(key):
    r = subprocess.run(["kmsfs", "key", "files", key], capture_output=True, text=True, check=True)
    return len(r.stdout.splitlines())
a, b = "alias/old", "alias/new"
interrupted = False
for attempt in range(10):
    p = subprocess.Popen(["kmsfs", "rekey", "--from", a, "--to", b, "--progress"], stderr=subprocess.PIPE, text=True)
    first = p.stderr.readline()
    assert " files" in first, first
    if how == "int":
        p.send_signal(signal.SIGINT)
    else:
        daemon = int(open(store + "/lock").read().split()[1])
        os.kill(daemon, signal.SIGKILL)
    rest = p.stderr.read()
    code = p.wait()
    if how == "kill":
        while os.path.exists(f"/proc/{daemon}"):
            time.sleep(0.01)
        subprocess.run(["kmsfs", "serve"], check=True)
    for look in range(100):  # the daemon ends the batches that it has begun
        n, done = left(a), left(b)
        if n + done == int(os.environ["FILES"]):
            break
    print(f"exit {code}, {n} left, {done} done: {rest!r}")
    assert n + done == int(os.environ["FILES"]), "files are missing"
    if code != 0:
        assert code == (130 if how == "int" else 7), code
        assert "goes on from there" in rest, rest
        interrupted = True
        if 0 < n < n + done:
            break
    a, b = b, a
else:
    if not interrupted:  # it may be, and have ended all batches that it had begun
        sys.exit("never interrupted")
r = subprocess.run(["kmsfs", "rekey", "--from", a, "--to", b], capture_output=True, text=True)
assert r.returncode == 0 and "no file is left" in r.stderr, r
assert left(a) == 0 and left(b) == int(os.environ["FILES"])
if b != "alias/new":
    subprocess.run(["kmsfs", "rekey", "--from", b, "--to", a], check=True, capture_output=True)
EOF2
FILES=1502
export FILES
LIMIT=120 works /usr/bin/python3 "$T/interrupt.py" int "$T/store"
matches "one still gives the old key to new files: .*alias/old" kmsfs rekey --from alias/old --to alias/new
works kmsfs bucket encryption one aws:kms:alias/new
works kmsfs bucket encryption two aws:kms:alias/new
lacks "still gives" kmsfs rekey --from alias/old --to alias/new
prints "$account/$new" attr user.s3.sse-kms-key-id "$m/one/hard-link"
prints "two/c 7" cat "$m/two/c/f7"
prints "" sh -c "kmsfs key files alias/old 2>/dev/null"

story "the old key is not needed any more, not even by what was open"
works kmsfs key disable alias/old
touch "$T/held.done"
wait "$held"
prints "deleted and open" cat "$T/held.read"
prints "first
second" cat "$m/two/log"
works sh -c "cat $m/one/a/* $m/one/b/* $m/two/c/* $m/plain/p >/dev/null"
works kmsfs key enable alias/old

story "the daemon killed in the middle"
works kmsfs umount "$m"
LIMIT=120 works /usr/bin/python3 "$T/interrupt.py" kill "$T/store"
mount_for admin "$m"
works sh -c "cat $m/one/a/* $m/one/b/* $m/two/c/* $m/plain/p >/dev/null"
works kmsfs fsck --data

story "sealed anew: one data key, the same content, size and times"
works sh -c "head -c 3000000 /dev/urandom >$m/one/big && cp $m/one/big $T/big"
before=$(stat -c '%y %s %b' "$m/one/big")
works kmsfs rekey --to alias/old --rewrite one/big one/a/f3
works cmp "$T/big" "$m/one/big"
same "time, size and blocks" "$before" "$(stat -c '%y %s %b' "$m/one/big")"
prints "one/a 3" cat "$m/one/a/f3"
prints "$account/$old" attr user.s3.sse-kms-key-id "$m/one/big"
matches '"rewrittenBytes": ?30000' kmsfs --json rekey --from alias/old --to alias/old --rewrite
works cmp "$T/big" "$m/one/big"

story "who may not, does not: the count says so, and the exit status"
exits 1 "could not be re-keyed" as alice kmsfs rekey --to alias/new one/big
exits 1 "2 files are still under" as alice kmsfs rekey --from alias/old --to AES256
exits 1 "not authorized" as alice kmsfs rekey --to AES256 one/big
prints "$account/$old" attr user.s3.sse-kms-key-id "$m/one/big"
exits 2 "needs --to" kmsfs rekey --from alias/old
exits 2 "old key is the new one" kmsfs rekey --from alias/old --to "$old"
works sh -c "kmsfs --json rekey --from alias/old --to alias/new --verbose | /usr/bin/python3 -c 'import json, sys
lines = [json.loads(l) for l in sys.stdin]
assert len(lines) == 3 and lines[-1][\"result\"][\"left\"][\"files\"] == 0, lines'"

story "a key with files is deleted by who knows how many"
exits 1 "1503 files would be lost with the key, not 12: nothing was done" kmsfs key schedule-deletion alias/new --files 12
matches Enabled kmsfs key show alias/new
python "on a terminal the number is asked for" <<'EOF2'
import os, pty, subprocess, sys
def schedule(answer):
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("kmsfs", ["kmsfs", "key", "schedule-deletion", "alias/new"])
    out = b""
    while b"type the number" not in out:
        out += os.read(fd, 1000)
    os.write(fd, answer)
    try:
        while chunk := os.read(fd, 1000):
            out += chunk
    except OSError:
        pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()
def state():
    return subprocess.run(["kmsfs", "key", "show", "alias/new"], capture_output=True, text=True).stdout
code, out = schedule(b"\x04")  # the end of the input, where an answer should be
assert code == 1 and "nothing was done" in out and "Enabled" in state(), (code, out)
code, out = schedule(b"5\n")
assert code == 1 and "1503 files are under the key" in out and "nothing was done" in out, (code, out)
assert "Enabled" in state()
code, out = schedule(b"1503\n")
assert code == 0, (code, out)
assert "PendingDeletion" in state()
EOF2
works kmsfs key cancel-deletion alias/new
matches "1503 files are under the key and will be lost with it" kmsfs key schedule-deletion alias/new --days 7
works kmsfs key cancel-deletion alias/new
works kmsfs key schedule-deletion alias/old --files 0 --days 7
