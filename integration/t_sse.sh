#!/usr/bin/env bash
# Which key does a file get, and how does one change it? user.s3.sse on files, directories and buckets, user.s3.encryption,
# the mount option sse=, and the tools that copy extended attributes.
. "$(dirname "$0")/lib.sh"
needs_root

new_store
k1=$(kmsfs key create --alias one) k2=$(kmsfs key create --alias two)
arn1=arn:aws:kms:us-east-1:000000000000:key/$k1 arn2=arn:aws:kms:us-east-1:000000000000:key/$k2
mount_for admin "$T/m"
works mkdir "$T/m/box"
cd "$T/m/box" || die "no bucket"
key_of() { attr user.s3.sse-kms-key-id "$1"; }
share key_of

story "the value: AES256, aws:kms, aws:kms:KEY with KEY an alias, an id or an ARN"
for value in "aws:kms:alias/one" "aws:kms:$k1" "aws:kms:$arn1"; do
  works touch f
  works set_attr user.s3.sse "$value" f
  prints aws:kms attr user.s3.sse f
  prints "$arn1" key_of f
  works rm f
done
works touch f
prints AES256 attr user.s3.sse f
works set_attr user.s3.sse aws:kms f
matches '^arn:aws:kms:us-east-1:000000000000:key/' key_of f
differs "aws/s3 is a key of its own" "$arn1" "$(key_of f)"
works set_attr user.s3.sse AES256 f
prints AES256 attr user.s3.sse f
works set_attr user.s3.sse "aws:kms:alias/one;bucket-key=true" f
prints true attr user.s3.bucket-key-enabled f
matches '"aws:s3:arn": ?"arn:aws:s3:::box"' attr user.s3.encryption-context f
context=$(printf '{"team":"payroll"}' | base64 -w0)
works set_attr user.s3.sse "aws:kms:alias/one;bucket-key=false;context=$context" f
prints false attr user.s3.bucket-key-enabled f
matches '"team": ?"payroll"' attr user.s3.encryption-context f
matches '"aws:s3:arn": ?"arn:aws:s3:::box/f"' attr user.s3.encryption-context f
works sh -c "echo content >f"
prints content cat f

story "anything else is EINVAL and changes nothing"
for value in "" aes256 AES128 aws:kms: aws:kmsx "aws:kms:alias/" "AES256;bucket-key=true" "aws:kms:alias/one;bucket-key=maybe" \
  "aws:kms:alias/one;context=!!" "aws:kms:alias/one;what=1" "aws:kms:alias/one " " AES256"; do
  refused "Invalid argument" set_attr user.s3.sse "$value" f
done
refused "Operation not supported" set_attr user.s3.sse "aws:kms:dsse" f
refused "Required key not available" set_attr user.s3.sse "aws:kms:alias/absent" f
refused "Required key not available" set_attr user.s3.sse "aws:kms:12345678-1234-1234-1234-123456789012" f
prints "$arn1" key_of f
prints content cat f
for name in sse-kms-key-id bucket-key-enabled encryption-context key-material-id; do
  refused "Operation not permitted" set_attr "user.s3.$name" x f
  refused "Operation not permitted" setfattr -x "user.s3.$name" f
done
matches '^[0-9a-f]{64}$' attr user.s3.key-material-id f

story "status attributes are read by name and never listed"
works set_attr user.colour blue f
prints user.colour sh -c "getfattr f | grep ^user"

story "re-keying a file with data: at once, whatever its size; data and mtime stay, ctime moves"
works dd if=/dev/urandom of=big bs=1M count=192 status=none
works touch -d '2020-02-02 02:02:02.020202' big
sum=$(sha256sum <big)
before=$(stat -c '%y %s' big) changed=$(stat -c %z big)
LIMIT=5 works set_attr user.s3.sse aws:kms:alias/two big
prints "$arn2" key_of big
prints "$before" stat -c '%y %s' big
differs "ctime moved" "$changed" "$(stat -c %z big)"
same "content after re-keying" "$sum" "$(sha256sum <big)"
LIMIT=5 works set_attr user.s3.sse AES256 big
prints AES256 attr user.s3.sse big
same "content under SSE-S3" "$sum" "$(sha256sum <big)"
LIMIT=5 works set_attr user.s3.sse aws:kms:alias/one big
middle=$(head -c 100000000 big | tail -c 99999000 | sha256sum)
works sh -c "printf tail >>big"
works sh -c "printf head | dd of=big conv=notrunc status=none"
prints head head -c 4 big
prints tail tail -c 4 big
same "what lies between is as it was" "$middle" "$(head -c 100000000 big | tail -c 99999000 | sha256sum)"

story "setting what is already there does nothing and asks nobody"
changed=$(stat -c %z big)
count() { kmsfs --json audit query | grep -c '"eventName"'; }
share count
n=$(count)
works set_attr user.s3.sse aws:kms:alias/one big
same "no audit event" "$n" "$(count)"

story "an override survives truncation; removing it gives an empty file the bucket's default"
works touch o
works set_attr user.s3.sse aws:kms:alias/two o
works sh -c "echo 1 >o; echo 2 >o; : >o; echo 3 >o"
prints "$arn2" key_of o
works truncate -s 0 o
works setfattr -x user.s3.sse o
prints AES256 attr user.s3.sse o
works set_attr user.s3.sse aws:kms:alias/two o

story "a directory's value is the default for what is made beneath it, and goes to new subdirectories"
works mkdir d
refused "No such attribute" attr user.s3.sse d
works set_attr user.s3.sse aws:kms:alias/one d
prints aws:kms:alias/one attr user.s3.sse d
works sh -c "echo x >d/f"
prints "$arn1" key_of d/f
works mkdir d/sub
prints aws:kms:alias/one attr user.s3.sse d/sub
works sh -c "echo x >d/sub/f"
prints "$arn1" key_of d/sub/f
works set_attr user.s3.sse AES256 d/sub
works sh -c "echo x >d/sub/g"
prints AES256 attr user.s3.sse d/sub/g
prints "$arn1" key_of d/sub/f
works setfattr -x user.s3.sse d
works sh -c "echo x >d/g"
prints AES256 attr user.s3.sse d/g
refused "Invalid argument" set_attr user.s3.sse nonsense d

story "a bucket: the short form on user.s3.sse, S3's JSON on user.s3.encryption; both are one setting"
prints AES256 attr user.s3.sse .
matches '"SSEAlgorithm": ?"AES256"' attr user.s3.encryption .
works set_attr user.s3.sse aws:kms:alias/one .
matches '"KMSMasterKeyID": ?"alias/one"' attr user.s3.encryption .
works sh -c "echo x >by-default"
prints "$arn1" key_of by-default
works set_attr user.s3.encryption \
  '{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms","KMSMasterKeyID":"alias/two"},"BucketKeyEnabled":true}]}' .
works sh -c "echo x >by-json"
prints "$arn2" key_of by-json
prints true attr user.s3.bucket-key-enabled by-json
matches 'alias/two' kmsfs bucket encryption box
for json in '' '{' '{"Rules":[]}' '{"Rules":[{},{}]}' \
  '{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256","KMSMasterKeyID":"alias/one"}}]}' \
  '{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"rot13"}}]}'; do
  refused "Invalid argument" set_attr user.s3.encryption "$json" .
done
matches 'alias/two' attr user.s3.encryption .
works set_attr user.s3.sse aws:kms:alias/later .
refused "Required key not available" sh -c "echo x >too-early"
refused "No such file" stat too-early
works kmsfs alias create later "$k1"
works sh -c "echo x >in-time"
prints "$arn1" key_of in-time
works kmsfs alias update later "$k2"
works sh -c "echo x >after"
prints "$arn2" key_of after
prints "$arn1" key_of in-time
works setfattr -x user.s3.encryption .
works sh -c "echo x >reset"
prints AES256 attr user.s3.sse reset
refused "" attr user.s3.encryption reset
refused "" set_attr user.s3.encryption '{}' d

story "the mount option is a request header on every upload: after a file's own override, before the defaults"
mount_for admin "$T/m2" -o sse=aws:kms:alias/two
works sh -c "echo x >$T/m2/box/by-option"
prints "$arn2" key_of by-option
works sh -c "echo y >$T/m2/box/o"
prints "$arn2" key_of o
works set_attr user.s3.sse aws:kms:alias/one by-default
works sh -c "echo y >$T/m2/box/by-default"
prints "$arn1" key_of by-default
works kmsfs umount "$T/m2"

story "cp -a, rsync -X and mv across buckets carry no encryption along, and may be repeated"
works mkdir "$T/m/copies"
works set_attr user.colour blue by-default
works cp -a by-default "$T/m/copies/"
prints AES256 attr user.s3.sse "$T/m/copies/by-default"
prints blue attr user.colour "$T/m/copies/by-default"
same "mtime kept" "$(stat -c %y by-default)" "$(stat -c %y "$T/m/copies/by-default")"
works cp -a by-default "$T/m/copies/"
works rsync -aX ./ "$T/m/copies/"
prints "" rsync -aX --itemize-changes ./ "$T/m/copies/"
prints "$arn1" key_of by-default
works mv by-default "$T/m/copies/moved"
prints AES256 attr user.s3.sse "$T/m/copies/moved"

story "all of it after a restart"
cd /
stop_daemon
mount_for admin "$T/m"
cd "$T/m/box" || die "no bucket"
prints "$arn1" key_of in-time
prints "$arn2" key_of after
prints head head -c 4 big
prints true attr user.s3.bucket-key-enabled by-json
prints aws:kms attr user.s3.sse o
cd /
