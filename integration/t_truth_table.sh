#!/usr/bin/env bash
# Who may do what: eight principals with different rights on three buckets, each on a mount of his own. The lines carry the
# numbers of the rows they come from (F01 to F50) so that a failure can be looked up.
. "$(dirname "$0")/lib.sh"
needs_root
new_store
for who in alice bob ro drop rdr putonly none; do person "$who"; done

principal() { # principal NAME POLICY...: with the uid of the person of that name
  local who=$1 flags=() p
  shift
  for p; do flags+=(--policy "$p"); done
  works kmsfs principal create "$who" --uid "$(uid_of "$who")" "${flags[@]}"
}
echo '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:PutObject","Resource":"*"}}' >"$T/PutOnly.json"
principal alice AmazonS3FullAccess
principal bob AmazonS3FullAccess
principal ro AmazonS3ReadOnlyAccess
principal drop AmazonS3FullAccess
principal rdr AmazonS3FullAccess
principal putonly "$T/PutOnly.json"
principal none
works kmsfs key create --alias my-key --admin admin --user alice --user ro --user putonly

# drop may only encrypt, rdr only decrypt.
kmsfs key policy alias/my-key | /usr/bin/python3 -c '
import json, sys
d = json.load(sys.stdin)
for who, what in (("drop", "kms:GenerateDataKey"), ("rdr", "kms:Decrypt")):
    d["Statement"].append({"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::000000000000:user/{who}"}, "Action": what, "Resource": "*"})
print(json.dumps(d))' >"$T/policy.json"
works kmsfs key policy alias/my-key "$T/policy.json"

works kmsfs bucket create pub
works kmsfs bucket create aws --sse aws:kms
works kmsfs bucket create pay --sse aws:kms:alias/my-key
mount_for admin "$T/admin"
for who in alice bob ro drop rdr putonly none; do mount_for "$who" "$T/$who"; done
for b in pub aws pay; do works sh -c "echo content-of-$b >$T/admin/$b/f"; done
echo x >"$T/x"

# can WHO COMMAND, cannot WHO COMMAND: in the top directory of his mount.
can() {
  works as "$1" sh -c "cd $T/$1 && $2"
}
cannot() {
  refused "Permission denied" as "$1" sh -c "cd $T/$1 && $2"
}

story "F01-F08: reading, and what needs no key"
can bob "cat pub/f"
can bob "cat aws/f"
cannot bob "cat pay/f"
can alice "cat pay/f"
works cat "$T/admin/pay/f"
cannot none "cat pub/f"
prints 15 as bob stat -c %s "$T/bob/pay/f"
can bob "ls -l pay"
can bob "getfattr -n user.s3.sse-kms-key-id pay/f"

story "F09-F14: renaming, deleting, writing"
can bob "mv pay/f pay/g"
prints content-of-pay as alice cat "$T/alice/pay/g"
can bob "rm pay/g"
works sh -c "echo content-of-pay >$T/admin/pay/f"
cannot bob "cp $T/x pay/new"
cannot bob "touch pay/new"
refused "No such file" stat "$T/admin/pay/new"
can bob "cp $T/x aws/new && cp $T/x pub/new"

story "F15-F16: read only"
can ro "cat pay/f"
cannot ro "cp $T/x pay/new"
cannot ro "rm -f pay/f"
cannot ro "mv pay/f pay/g"
cannot ro "mkdir pay/d"
cannot ro "mkdir bucket-of-ro"
cannot ro "chmod 600 pay/f"

story "F17-F24: a drop box"
can drop "cp $T/x pay/new"
cannot drop "cat pay/new"
cannot drop "echo y >>pay/new"
can drop "echo y >pay/new"
prints y cat "$T/admin/pay/new"
WHO=drop python "F21: who made the file reads it on the same handle" "$T/drop/pay/made" <<'EOF'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
os.write(fd, b"mine until close")
assert os.pread(fd, 100, 0) == b"mine until close"
EOF
cannot drop "truncate -s 10 pay/new"
WHO=drop python "F23: truncate(path, 0) is a new object" "$T/drop/pay/new" <<'EOF'
import os, sys
os.truncate(sys.argv[1], 0)
EOF
prints 0 stat -c %s "$T/admin/pay/new"
can drop "mv pay/new pay/z && rm pay/z"

story "F25-F27: decryption alone"
can rdr "cat pay/f"
cannot rdr "cp $T/x pay/new"
cannot rdr "echo >pay/f"
prints content-of-pay cat "$T/admin/pay/f"
can rdr "echo y >>pay/f"
works sh -c "echo content-of-pay >$T/admin/pay/f"

story "F28-F30: PutObject alone"
can putonly "cp $T/x pay/new"
prints x cat "$T/admin/pay/new"
cannot putonly "cat pay/new"
cannot putonly "ls pay"
cannot putonly "rm -f pay/new"

story "F31-F32: across buckets"
cannot bob "mv pub/f pay/f2"
prints content-of-pub cat "$T/admin/pub/f"
cannot bob "cp pay/f pub/copy"

story "F33-F36: the bucket's default"
can alice "setfattr -n user.s3.encryption -v aws:kms:alias/other pay"
can alice "cat pay/f"
refused "Required key not available" as alice cp "$T/x" "$T/alice/pay/n2"
cannot ro "setfattr -n user.s3.encryption -v AES256 pay"
works kmsfs bucket encryption pay aws:kms:alias/my-key

story "F37-F40: re-keying"
before=$(stat -c '%y %s' "$T/admin/pub/f")
can alice "setfattr -n user.s3.sse -v aws:kms:alias/my-key pub/f"
prints "$before" stat -c '%y %s' "$T/admin/pub/f"
prints content-of-pub as alice cat "$T/alice/pub/f"
cannot bob "cat pub/f"
cannot bob "setfattr -n user.s3.sse -v AES256 pay/f"
can bob "setfattr -n user.note -v x pay/f && chmod 600 pay/f"

story "F41-F46: the key's state, policy and rotation"
# F43: alice has the file open meanwhile, and reads again when she is told to.
mkfifo -m 666 "$T/opened" "$T/again"
cat >"$T/reader.py" <<'EOF2'
import errno, os, sys, time
path, opened, again = sys.argv[1:]
fd = os.open(path, os.O_RDONLY)
assert os.pread(fd, 100, 0) == b"content-of-pay\n"
open(opened, "w").close()
open(again).read()
until = time.monotonic() + 20  # what the kernel has cached is dropped within a second, on a machine that has time for it
try:
    while time.monotonic() < until:
        os.pread(fd, 100, 0)
    sys.exit("the open file is still read")
except OSError as e:
    assert e.errno == errno.EKEYREVOKED, e
open(again).read()
assert os.pread(fd, 100, 0) == b"content-of-pay\n"
EOF2
as alice /usr/bin/python3 "$T/reader.py" "$T/alice/pay/f" "$T/opened" "$T/again" >"$T/reader" 2>&1 &
reader=$!
works cat "$T/opened" # ends when the reader has opened it, and ended it
works sh -c "echo x >$T/admin/pay/gone"
works kmsfs key disable alias/my-key
refused "Key has been revoked" as alice cat "$T/alice/pay/f"
works sh -c ": >$T/again"
cannot bob "cat pay/f"
can alice "stat pay/f && mv pay/f pay/f2 && mv pay/f2 pay/f && rm pay/gone"
works kmsfs key enable alias/my-key
works sh -c ": >$T/again"
wait "$reader"
same "F43: an open file is refused while its key is disabled, and read again" "0" "$?$(cat "$T/reader")"
works kmsfs key schedule-deletion alias/my-key --days 7
refused "Key has been revoked" as alice cat "$T/alice/pay/f"
refused "Key has been revoked" as alice cp "$T/x" "$T/alice/pay/n3"
works kmsfs key cancel-deletion alias/my-key
refused "Key has been revoked" as alice cat "$T/alice/pay/f"
works kmsfs key enable alias/my-key
can alice "cat pay/f"
works sh -c "sed 's#user/alice#user/bob#' $T/policy.json | kmsfs key policy alias/my-key -"
cannot alice "cat pay/f"
can bob "cat pay/f"
works kmsfs key policy alias/my-key "$T/policy.json"
works kmsfs key rotate alias/my-key
can alice "cat pay/f && cp $T/x pay/n3"
differs "key material of old and new files" "$(attr user.s3.key-material-id "$T/admin/pay/f")" "$(attr user.s3.key-material-id "$T/admin/pay/n3")"

story "F47: a bucket policy that wants uploads to name their encryption"
cat >"$T/bucket.json" <<'EOF'
{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::pay/*",
 "Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"aws:kms"}}}]}
EOF
works kmsfs bucket policy pay "$T/bucket.json"
cannot alice "cp $T/x pay/n4"
works mkdir "$T/alice2"
works chown "$(uid_of alice):$(id -g "$(id -un "$(uid_of alice)")")" "$T/alice2"
works kmsfs mount --principal alice -o sse=aws:kms:alias/my-key "$T/alice2"
works as alice cp "$T/x" "$T/alice2/pay/n4"
works kmsfs bucket policy pay --delete

story "a bucket policy that denies one person, and one that allows another"
cat >"$T/bucket.json" <<'EOF'
{"Version":"2012-10-17","Statement":[
 {"Effect":"Deny","Principal":{"AWS":"arn:aws:iam::000000000000:user/bob"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::aws/secret/*"},
 {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/none"},"Action":["s3:GetObject"],"Resource":"arn:aws:s3:::aws/f"}]}
EOF
works sh -c "mkdir $T/admin/aws/secret && echo s >$T/admin/aws/secret/s"
works kmsfs bucket policy aws "$T/bucket.json"
cannot bob "cat aws/secret/s"
can bob "cat aws/f"
can alice "cat aws/secret/s"
can none "cat aws/f"
cannot none "cat aws/new"
cannot none "ls aws"

story "errno=posix folds key states into EACCES"
works kmsfs umount "$T/alice2"
works kmsfs mount --principal alice -o errno=posix "$T/alice2"
works kmsfs key disable alias/my-key
refused "Permission denied" as alice cat "$T/alice2/pay/f"
works kmsfs key enable alias/my-key
works as alice cat "$T/alice2/pay/f"

story "F48-F50: copies, archives, links"
can alice "cp -a pay/f pub/copied"
prints AES256 attr user.s3.sse "$T/admin/pub/copied"
can alice "touch pub/explicit && setfattr -n user.s3.sse -v aws:kms:alias/my-key pub/explicit && setfattr -n user.note -v x pub/explicit"
can alice "tar --xattrs -C pub -cf $T/home/alice/x.tar explicit"
matches "user.note" tar --xattrs -tvvf "$T/home/alice/x.tar" # F49: attributes are archived, and not the one that says how it is encrypted
lacks "user.s3" tar --xattrs -tvvf "$T/home/alice/x.tar"
lacks "user.s3" cat "$T/home/alice/x.tar"
can alice "ln pay/f pay/l && cat pay/l"
cannot ro "ln pay/f pay/l2"
can bob "rm pay/l"

story "the administrator is bound by key policies like everyone"
works kmsfs key create --alias closed
kmsfs key policy alias/closed >"$T/closed.json"
works sh -c "touch $T/admin/pub/closed && setfattr -n user.s3.sse -v aws:kms:alias/closed $T/admin/pub/closed && echo c >$T/admin/pub/closed"
echo '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/admin"},"Action":["kms:Put*","kms:Get*","kms:Describe*"],"Resource":"*"},
 {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/alice"},"Action":["kms:Decrypt","kms:GenerateDataKey"],"Resource":"*"}]}' >"$T/alice-only.json"
works kmsfs key policy alias/closed "$T/alice-only.json"
refused "Permission denied" cat "$T/admin/pub/closed"
prints c as alice cat "$T/alice/pub/closed"
