#!/usr/bin/env bash
# The root key can be unlocked in several ways, each a slot; slots come and go without touching data.
. "$(dirname "$0")/lib.sh"
needs_root

slots() { kmsfs --json unlock list; }
first_slot() { kmsfs unlock list | head -n 1 | cut -d' ' -f1; }
share slots
printf 'correct horse battery staple' >"$T/pass1"
printf 'wrong pony' >"$T/wrong"
printf 'second passphrase\n' >"$T/pass2"
chmod 600 "$T"/pass? "$T/wrong"

story "the default is a key file, for the owner of the store alone"
works kmsfs init
prints 600 stat -c %a "$T/store/root.key"
matches 'key-?file' slots
works kmsfs bucket create box

story "a store under a passphrase"
export KMSFS_STORE=$T/sealed
works kmsfs init --passphrase-file "$T/pass1"
refused "No such file" stat "$T/sealed/root.key"
exits 4 "passphrase|unlock" kmsfs bucket list
exits 4 "passphrase|unlock" env KMSFS_PASSPHRASE_FILE="$T/wrong" kmsfs bucket list
export KMSFS_PASSPHRASE_FILE=$T/pass1
works kmsfs bucket create secret
matches passphrase slots
prints_bucket() { kmsfs bucket list | grep -qw secret; }
share prints_bucket
works prints_bucket

story "a second slot opens the same store; the first can go"
works kmsfs unlock add passphrase --new-passphrase-file "$T/pass2"
prints 2 sh -c "kmsfs --json unlock list | grep -o passphrase | wc -l"
export KMSFS_PASSPHRASE_FILE=$T/pass2
works prints_bucket
first=$(first_slot)
works kmsfs unlock remove "$first"
works prints_bucket
exits 4 "passphrase|unlock" env KMSFS_PASSPHRASE_FILE="$T/pass1" kmsfs bucket list
exits 4 "passphrase|unlock" env KMSFS_PASSPHRASE_FILE="$T/pass1" kmsfs unlock add key-file "$T/useless.key"
same "a slot that was not added leaves no key file behind" no "$(yes_if [ -e "$T/useless.key" ])"

story "the last slot stays"
last=$(first_slot)
exits 1 "last" kmsfs unlock remove "$last"
exits 1 "slot" kmsfs unlock remove no-such-slot
works prints_bucket

story "a key file can be added, a mount works with each"
works kmsfs unlock add key-file "$T/sealed.key"
prints 600 stat -c %a "$T/sealed.key"
mount_for admin "$T/m"
works sh -c "echo kept >$T/m/secret/f"
works kmsfs umount "$T/m"
within 10 no_daemon
mount_for admin "$T/m"
prints kept cat "$T/m/secret/f"
works kmsfs umount "$T/m"

story "a systemd credential"
mkdir -m 700 "$T/credentials"
head -c 32 /dev/urandom >"$T/credentials/kmsfs-root"
export KMSFS_STORE=$T/with-credential CREDENTIALS_DIRECTORY=$T/credentials
unset KMSFS_PASSPHRASE_FILE
works kmsfs init
works kmsfs unlock add systemd-credential kmsfs-root
works rm "$T/with-credential/root.key"
works kmsfs bucket create box
exits 4 "credential|key" env -u CREDENTIALS_DIRECTORY kmsfs bucket list
unset CREDENTIALS_DIRECTORY

story "the passphrase asked for on a terminal: not shown, and wrong once is refused"
export KMSFS_STORE=$T/sealed
works kmsfs unlock list
for id in $(kmsfs unlock list | grep key-file | cut -d' ' -f1); do
  works env KMSFS_PASSPHRASE_FILE="$T/pass2" kmsfs unlock remove "$id"
done
cat >"$T/typed.py" <<'EOF'
# Runs a command on a terminal of its own, types the line given, prints what the terminal showed; ends as the command did.
import os, pty, sys, termios, time
typed, command = sys.argv[1], sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown, sent = b"", False
while True:
    try:
        piece = os.read(fd, 4096)
    except OSError:
        break
    if not piece:
        break
    shown += piece
    if not sent and b": " in shown:
        end = time.time() + 5
        while termios.tcgetattr(fd)[3] & termios.ECHO and time.time() < end:
            time.sleep(0.01)  # a person is not as fast as that
        os.write(fd, typed.encode() + b"\n")
        sent = True
print(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
EOF
matches secret /usr/bin/python3 "$T/typed.py" 'second passphrase' kmsfs bucket list
lacks 'second passphrase' /usr/bin/python3 "$T/typed.py" 'second passphrase' kmsfs bucket list
attempt /usr/bin/python3 "$T/typed.py" 'not it' kmsfs bucket list
same "a wrong passphrase ends with status 4" 4 "$status"

story "no passphrase and no key is on the disk"
refused "" grep -rqaF -e 'correct horse' -e 'second passphrase' "$T/sealed"
