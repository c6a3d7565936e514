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

story "no passphrase and no key is on the disk"
refused "" grep -rqaF -e 'correct horse' -e 'second passphrase' "$T/sealed"
