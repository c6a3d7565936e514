#!/usr/bin/env bash
# make.sh [DIR]: makes the stores of one format that t_upgrade.sh opens in every run, with the program of its day, and what they hold in
# words. It was run once for each format; the results are kept in format1 and format2 (its rows are of version 2), and are never made
# anew: DIR is the directory of a next format. What the first format's stores do not hold yet is marked so.
#
#   store.tar.gz     the store, closed in order
#   killed.tar.gz    the same store later, copied from under a daemon that was killed: rows in the redo log, epochs not closed
#   files.txt        what a mount for the administrator shows (manifest.sh), with every key enabled
#   killed.txt       the same for the second
#   records.txt      keys, policies, grants, principals, buckets
#
# The passphrase is "format one"; the key file lies in the store.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
# shellcheck source=integration/format1/manifest.sh
. "$here/manifest.sh"
out=$(cd "${1:-$here}" && pwd) || die "no directory ${1:-}"
needs_root
[ ! -e "$out/store.tar.gz" ] || die "$out/store.tar.gz is there already: a kept store is never made anew"

new_store --account 111122223333 --region eu-central-1
printf 'format one\n' >"$T/phrase"
works kmsfs unlock add passphrase --new-passphrase-file "$T/phrase"
works kmsfs principal create alice --uid 4001 --uid 4002 --policy AmazonS3ReadOnlyAccess
works kmsfs principal create bob --uid 4003
works kmsfs group create readers --policy AmazonS3ReadOnlyAccess
works kmsfs group add readers bob
plain=$(kmsfs key create --alias plain --description "never touched" --user alice)
rotated=$(kmsfs key create --alias rotated --description "three materials")
disabled=$(kmsfs key create --alias disabled --description "files lie under it, it is disabled")
works kmsfs grant create "$plain" --grantee bob --operations Decrypt,DescribeKey

story "imported key material, by an unmodified client"
works kmsfs serve --kms-listen 127.0.0.1:0
eval "$(kmsfs principal access-key create admin)"
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_EC2_METADATA_DISABLED=true
kms() { /usr/bin/aws --endpoint-url "$(kmsfs status | sed -n 's/^kms: *//p')" --region eu-central-1 --output text kms "$@"; }
imported=$(kms create-key --origin EXTERNAL --description "imported material" --query KeyMetadata.KeyId)
kms create-alias --alias-name alias/imported --target-key-id "$imported"
kms get-parameters-for-import --key-id "$imported" --wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_2048 \
  --query '[ImportToken,PublicKey]' >"$T/parameters"
cut -f1 "$T/parameters" | base64 -d >"$T/token"
cut -f2 "$T/parameters" | base64 -d >"$T/public.der"
head -c 32 /dev/urandom >"$T/material"
openssl pkeyutl -encrypt -pubin -keyform DER -inkey "$T/public.der" -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 \
  -in "$T/material" -out "$T/wrapped"
kms import-key-material --key-id "$imported" --import-token "fileb://$T/token" --encrypted-key-material "fileb://$T/wrapped" \
  --expiration-model KEY_MATERIAL_DOES_NOT_EXPIRE
matches Enabled kmsfs key show alias/imported

story "buckets: of every default encryption, with a policy, with a quota"
mount_for admin "$T/m" -o default_permissions
works kmsfs bucket create plain-s3
works kmsfs bucket create managed --sse aws:kms
works kmsfs bucket create keyed --sse "aws:kms:alias/plain"
works kmsfs bucket create bucket-key --sse "aws:kms:alias/rotated;bucket-key=true"
works kmsfs bucket create limited
works set_attr user.s3.quota bytes=10000000,inodes=1000 "$T/m/limited"
cat >"$T/policy.json" <<'POLICY'
{"Version": "2012-10-17", "Statement": [{"Sid": "NoPrivate", "Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::111122223333:user/alice"},
  "Action": "s3:GetObject", "Resource": "arn:aws:s3:::keyed/private/*"}]}
POLICY
works kmsfs bucket policy keyed "$T/policy.json"

# bytes N SEED: N bytes that do not compress, the same for a seed.
bytes() { openssl enc -aes-128-ctr -nosalt -pass "pass:format1 $2" -in /dev/zero 2>/dev/null | head -c "$1"; }
share bytes

story "files: in rows and in segments, overwritten, appended, sparse, empty; links, pipes, attributes, lists"
cd "$T/m" || die "no mount"
for b in plain-s3 managed keyed bucket-key limited; do
  mkdir -p "$b/deep/er/still" "$b/private"
  : >"$b/empty"
  bytes 300 "$b tiny" >"$b/tiny"
  bytes 9000 "$b inline" | dd of="$b/deep/inline" bs=9000 iflag=fullblock conv=fsync 2>/dev/null
  bytes 20000 "$b segment" >"$b/deep/er/segment"
  bytes 100 "$b private" >"$b/private/file"
done
bytes 70000 "over" | dd of=keyed/overwritten bs=70000 iflag=fullblock 2>/dev/null
for at in 0 5000 40000 69990; do
  bytes 3000 "over $at" | dd of=keyed/overwritten bs=3000 iflag=fullblock oflag=seek_bytes seek=$at conv=notrunc 2>/dev/null
done
bytes 5000 append >bucket-key/appended
bytes 5000 append2 >>bucket-key/appended
bytes 20000 sparse >plain-s3/sparse
truncate -s 3000000 plain-s3/sparse
bytes 5000 sparse2 | dd of=plain-s3/sparse bs=5000 iflag=fullblock oflag=seek_bytes seek=2000001 conv=notrunc 2>/dev/null
bytes 30000 cut >plain-s3/cut
truncate -s 12345 plain-s3/cut
ln keyed/deep/inline keyed/hard
ln keyed/deep/inline keyed/deep/er/harder
ln -s ../plain-s3/tiny keyed/soft
ln -s "$(printf 'x%.0s' $(seq 1 400))" keyed/long-link
mkfifo -m 640 keyed/pipe
printf 'names in UTF-8\n' >"keyed/deep/Grüße, 世界 😀"
printf 'a long name\n' >"keyed/deep/$(printf 'n%.0s' $(seq 1 255))"
for n in $(seq 1 60); do printf 'number %d\n' "$n" >"limited/deep/f$n"; done
rm limited/deep/f1?
mv limited/deep/f2 limited/deep/er/moved
set_attr user.colour blue keyed/tiny
set_attr user.large "$(printf 'v%.0s' $(seq 1 3000))" keyed/tiny
set_attr user.colour red keyed/deep
chmod 4751 keyed/deep/er/segment
chown 4001:4002 keyed/deep/er/segment
setfacl -m u:4001:rw,g:4003:r keyed/private/file
setfacl -m d:u:4001:rwx keyed/private
touch -d '1999-12-31 23:59:59.123456789' managed/tiny

story "keys: files before and after each rotation, re-keyed files, a context, the imported and the disabled key"
for n in 1 2; do
  bytes 20000 "rotated $n" >"keyed/rotated$n"
  set_attr user.s3.sse "aws:kms:alias/rotated" "keyed/rotated$n"
  works kmsfs key rotate "$rotated"
done
for key in rotated imported disabled; do
  for size in 200 18000; do
    : >"keyed/under-$key-$size"
    set_attr user.s3.sse "aws:kms:alias/$key" "keyed/under-$key-$size"
    bytes $size "$key $size" >"keyed/under-$key-$size"
  done
done
bytes 40000 rekeyed >keyed/rekeyed
works kmsfs rekey --to "$rotated" keyed/rekeyed
bytes 6000 rekeyed2 | dd of=keyed/rekeyed bs=6000 iflag=fullblock oflag=seek_bytes seek=10000 conv=notrunc 2>/dev/null
: >keyed/context
set_attr user.s3.sse "aws:kms:alias/plain;context=$(printf '{"team":"payroll"}' | base64 -w0)" keyed/context
bytes 500 context >keyed/context
set_attr user.s3.sse "AES256" managed/private
bytes 500 default >managed/private/of-the-directory

story "since format2: more files under a key than one row of the index names, many of them elsewhere or gone"
mkdir keyed/many
for n in $(seq 1 159); do printf 'one of many, %d\n' "$n" >"keyed/many/f$n"; done
works kmsfs rekey --from "$plain" --to "$rotated" keyed/many/f1??
rm keyed/many/f[2-6]?
mv keyed/many/f99 keyed/deep/from-many
cd / || exit 1

story "closed, and written down"
files_below "$T/m" >"$out/files.txt"
works kmsfs key disable "$disabled"
works kmsfs umount "$T/m"
stop_daemon
records >"$out/records.txt"
matches 'clean' kmsfs fsck --data
tar -C "$T" --owner=0 --group=0 --exclude=lock --exclude='*.sock' --exclude=daemon.log -cSf - store | gzip -9n >"$out/store.tar.gz"

story "the same, killed in the middle of work"
works kmsfs key enable "$disabled"
mount_for admin "$T/m" -o default_permissions
cd "$T/m" || die "no mount"
for n in $(seq 1 40); do bytes 2000 "late $n" >"limited/late$n"; done
bytes 40000 "late large" >keyed/late
mv keyed/late keyed/overwritten
rm keyed/rotated1
last() {
  bytes 20000 "$1" >limited/last
  touch -d '2026-11-01 12:00' limited/last limited
}
last "the end"
cd / || exit 1
files_below "$T/m" >"$out/killed.txt"
cd "$T/m" || die "no mount"
mapfile -t living < <(daemons)
last "not the end"
last "the end" # in an epoch that is not closed, over another extent of it; t_upgrade.sh says if it was closed after all
kill -9 "${living[@]}"
cd / || exit 1
eventually 20 no_daemon
tar -C "$T" --owner=0 --group=0 --exclude=lock --exclude='*.sock' --exclude=daemon.log -cSf - store | gzip -9n >"$out/killed.tar.gz"
ls -l "$out"
