#!/usr/bin/env bash
# A daemon of root that mounts for other users is a door to root unless it is narrow. Three people try it.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
person bob
person carol

story "root serves; alice and bob mount for themselves, each on a directory of their own"
works kmsfs init
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
works kmsfs principal create bob --uid "$(uid_of bob)" --policy AmazonS3FullAccess
works kmsfs principal create carol --uid "$(uid_of carol)"
works kmsfs bucket create box
works kmsfs serve
a=$T/home/alice/s3 b=$T/home/bob/s3 c=$T/home/carol/s3
works as alice mkdir "$a"
works as bob mkdir "$b"
works as carol mkdir "$c"
works as alice kmsfs mount "$a"
works as bob kmsfs mount --principal bob "$b"
works as carol kmsfs mount "$c"
works as alice sh -c "echo 'from alice' >$a/box/f"
prints "from alice" as bob cat "$b/box/f"
prints "$(uid_of alice)" as alice stat -c %u "$a/box/f"

story "nobody enters another's mount, not even root"
refused "Permission denied" as bob ls "$a"
refused "Permission denied" as bob cat "$a/box/f"
refused "Permission denied" as carol stat "$b/box"
refused "Permission denied" ls "$a"
refused "Permission denied" cat "$b/box/f"

story "carol has no policy: she sees nothing and does nothing"
refused "Permission denied" as carol ls "$c"
refused "Permission denied" as carol ls "$c/box"
refused "Permission denied" as carol cat "$c/box/f"
refused "Permission denied" as carol sh -c "echo x >$c/box/g"
works kmsfs principal attach carol AmazonS3ReadOnlyAccess
prints "from alice" as carol cat "$c/box/f"
refused "Permission denied" as carol sh -c "echo x >$c/box/g"
refused "Permission denied" as carol rm "$c/box/f"
works kmsfs principal detach carol AmazonS3ReadOnlyAccess
refused "Permission denied" as carol cat "$c/box/f"

story "a caller acts as principals bound to his uid and as no other"
works as alice mkdir "$T/home/alice/other"
exits 1 "bob|bound|allowed|denied" as alice kmsfs mount --principal bob "$T/home/alice/other"
exits 1 "admin|bound|allowed|denied" as alice kmsfs mount --principal admin "$T/home/alice/other"
exits 1 "admin|bound|allowed|denied" as alice kmsfs --as admin key list
exits 1 "denied|authorized" as alice kmsfs principal create mallory
exits 1 "denied|authorized" as alice kmsfs principal attach alice AdministratorAccess
exits 1 "denied|authorized" as alice kmsfs key create
exits 1 "denied|allowed|owner|authorized" as alice kmsfs stop
exits 1 "denied|allowed|owner|authorized" as alice kmsfs unlock list
exits 1 "denied|authorized|owner|allowed" as alice kmsfs audit query
works as alice kmsfs bucket list

story "only on a directory that is the caller's own, by no detour"
exits 1 "denied|own|belong|permitted" as alice kmsfs mount /etc
exits 1 "denied|own|belong|permitted" as alice kmsfs mount "$T/home"
exits 1 "denied|own|belong|permitted|mount" as alice kmsfs mount "$b"
works as alice ln -s /etc "$T/home/alice/link"
exits 1 "denied|own|belong|permitted|link|not a directory" as alice kmsfs mount "$T/home/alice/link"
works mkdir -m 700 "$T/closed"
works mkdir "$T/closed/dir"
works chown "$(uid_of alice)" "$T/closed/dir"
exits 1 "denied|no such" as alice kmsfs mount "$T/closed/dir"
works as bob mkdir -m 755 "$T/home/bob/his"
exits 1 "denied|own|belong|permitted" as alice kmsfs mount "$T/home/bob/his"
prints "" sh -c "awk '{print \$5}' /proc/self/mountinfo | grep -e '^/etc' -e '^$T/closed' -e '/his$' -e '/other$' || true"

story "options are a whitelist"
for option in allow_other dev suid allow_root rootmode=40000 user_id=0 context=x fsname=/dev/sda1 blkdev; do
  exits 2 "option" as alice kmsfs mount -o "$option" "$T/home/alice/other"
done
matches 'nosuid' findmnt -n -o OPTIONS "$a"
matches 'nodev' findmnt -n -o OPTIONS "$a"
matches "user_id=$(uid_of alice)" findmnt -n -o OPTIONS "$a"
lacks 'allow_other' findmnt -n -o OPTIONS "$a"
works as alice kmsfs mount -o ro,noexec "$T/home/alice/other"
matches '(^|,)ro(,|$)' findmnt -n -o OPTIONS "$T/home/alice/other"
matches 'noexec' findmnt -n -o OPTIONS "$T/home/alice/other"
prints "from alice" as alice cat "$T/home/alice/other/box/f"
refused "Read-only file system" as alice sh -c "echo x >$T/home/alice/other/box/g"
works as alice kmsfs umount "$T/home/alice/other"

story "unmounting is for whoever mounted, and for root"
exits 1 "denied|own|allowed|permitted|belong" as alice kmsfs umount "$b"
works as bob ls "$b"
works as alice kmsfs umount "$a"
works kmsfs umount "$b"
works as carol kmsfs umount "$c"

story "the store itself is closed to others"
works chmod 755 "$T"
for f in root.key kmsfs.json; do
  refused "Permission denied" as alice cat "$T/store/$f"
done
refused "Permission denied" as alice ls "$T/store/db"
refused "Permission denied" as alice ls "$T/store/segments"
refused "Permission denied" as alice ls "$T/store/audit"
exits 1 "denied|permi|store" as alice env KMSFS_STORE="$T/home/bob/none" kmsfs bucket list

story "special files: devices for root alone, and none of them opens"
works kmsfs mount --principal admin "$(mkdir "$T/m" && echo "$T/m")"
works mknod "$T/m/box/null" c 1 3
refused "Permission denied" cat "$T/m/box/null"
works cp /usr/bin/id "$T/m/box/id"
works chmod 4755 "$T/m/box/id"
works kmsfs umount "$T/m"

story "without root, a user's own store and mount, through fusermount3"
let_all_use_fuse
export KMSFS_STORE=$T/home/alice/store
works as alice kmsfs init
works as alice kmsfs mount "$a"
works as alice mkdir "$a/mine"
works as alice sh -c "echo mine >$a/mine/f"
refused "Permission denied" ls "$a"
refused "Permission denied" as bob ls "$a"
works as alice kmsfs umount "$a"
export KMSFS_STORE=$T/store
