#!/usr/bin/env bash
# The life of keys, aliases, grants and policies on the command line, and what files notice of it.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
person bob
person power
person keeper

new_store
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
works kmsfs principal create bob --uid "$(uid_of bob)" --policy AmazonS3FullAccess
works kmsfs principal create power --uid "$(uid_of power)" --policy AWSKeyManagementServicePowerUser
works kmsfs principal create keeper --uid "$(uid_of keeper)"
works kmsfs serve
works kmsfs bucket create box
mount_for admin "$T/admin"
mount_for alice "$T/alice"
mount_for bob "$T/bob"
account=000000000000

story "create: with alias, description, administrators and users, or with a policy of one's own"
attempt kmsfs key create --alias alias/console --description "made like in the console" --admin keeper --user alice
key=$(cat "$T/.io/out")
same "nothing but the id on stdout" 36 "${#key}"
matches 'made like in the console' kmsfs key show "$key"
matches 'Enabled' kmsfs key show "arn:aws:kms:us-east-1:$account:key/$key"
matches 'user/keeper' kmsfs key policy "$key"
matches 'user/alice' kmsfs key policy alias/console
matches "$key" kmsfs key list
kmsfs key policy alias/console >"$T/console.json"
works kmsfs key create --policy "$T/console.json" --alias with-policy
matches 'user/alice' kmsfs key policy alias/with-policy
works /usr/bin/python3 -m json.tool "$T/console.json"
works sh -c "kmsfs --json key show $key | /usr/bin/python3 -m json.tool"
works sh -c "kmsfs --json key list | /usr/bin/python3 -m json.tool"

story "the key administrator manages and cannot use; the power user creates and cannot touch others' keys"
works as keeper kmsfs key disable "$key"
works as keeper kmsfs key enable "$key"
works as keeper kmsfs key policy "$key" "$T/console.json"
exits 1 "not authorized" as keeper kmsfs key rotate "$key"
exits 1 "not authorized" as alice kmsfs key disable "$key"
works as power kmsfs key create --alias of-power
works as power kmsfs key list
exits 1 "not authorized" as power kmsfs key disable "$key"
exits 1 "not authorized" as power kmsfs key policy "$key" "$T/console.json"

story "files under the key: alice reads and writes, bob does not"
works kmsfs bucket encryption box aws:kms:alias/console
works sh -c "echo one >$T/admin/box/one && mkdir $T/admin/box/dir && echo two >$T/admin/box/dir/two"
prints one as alice cat "$T/alice/box/one"
works as alice sh -c "echo three >$T/alice/box/three"
refused "Permission denied" as bob cat "$T/bob/box/one"
for f in one dir/two three; do matches "box/$f" kmsfs key files alias/console; done

story "grants: given, used, taken back"
attempt kmsfs grant create alias/console --grantee bob --operations Decrypt
grant=$(cat "$T/.io/out")
prints one as bob cat "$T/bob/box/one"
refused "Permission denied" as bob sh -c "echo x >$T/bob/box/four"
matches "$grant" kmsfs grant list alias/console
works kmsfs grant revoke alias/console "$grant"
refused "kmsfs grant list KEY" kmsfs grant revoke alias/console "$grant"
refused "Permission denied" as bob cat "$T/bob/box/one"
lacks "$grant" kmsfs grant list alias/console

story "aliases: moved, deleted; what is written keeps its key"
attempt kmsfs key create
second=$(cat "$T/.io/out")
works kmsfs alias update console "$second"
works sh -c "echo five >$T/admin/box/five"
prints "arn:aws:kms:us-east-1:$account:key/$second" attr user.s3.sse-kms-key-id "$T/admin/box/five"
prints one as alice cat "$T/alice/box/one"
works kmsfs alias delete alias/console
prints five cat "$T/admin/box/five"
refused "Required key not available" sh -c "echo x >$T/admin/box/six"
works kmsfs alias create console "$key"
works sh -c "echo six >$T/admin/box/six"

story "rotation: three materials, every file readable"
for n in 1 2 3; do
  works kmsfs key rotate "$key"
  works sh -c "echo rotated-$n >$T/admin/box/r$n"
done
for n in 1 2 3; do prints "rotated-$n" as alice cat "$T/alice/box/r$n"; done
prints one as alice cat "$T/alice/box/one"

story "rekey: a dry run, one directory, everything under a key"
matches 'dir/two' kmsfs rekey --to "$second" --dry-run box/dir
prints "arn:aws:kms:us-east-1:$account:key/$key" attr user.s3.sse-kms-key-id "$T/admin/box/dir/two"
works kmsfs rekey --to "$second" box/dir
prints "arn:aws:kms:us-east-1:$account:key/$second" attr user.s3.sse-kms-key-id "$T/admin/box/dir/two"
prints two cat "$T/admin/box/dir/two"
works kmsfs rekey --from "$key" --to "$second"
prints "" kmsfs key files "$key"
refused "Permission denied" as alice cat "$T/alice/box/one"
prints one cat "$T/admin/box/one"
prints rotated-2 cat "$T/admin/box/r2"

story "deletion is scheduled and cancelled; a key that waits refuses"
works kmsfs key schedule-deletion "$second" --days 7
matches 'PendingDeletion' kmsfs key show "$second"
refused "Key has been revoked" cat "$T/admin/box/one"
exits 1 "pending deletion" kmsfs key enable "$second"
works kmsfs key cancel-deletion "$second"
matches 'Disabled' kmsfs key show "$second"
works kmsfs key enable "$second"
prints one cat "$T/admin/box/one"

story "principals: policies attached and detached work at once; a deleted principal is nobody"
works kmsfs principal detach bob AmazonS3FullAccess
refused "Permission denied" as bob ls "$T/bob/box"
echo '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:ListBucket","s3:ListAllMyBuckets"],"Resource":"*"}}' >"$T/Lister.json"
works kmsfs principal attach bob "$T/Lister.json"
works as bob ls "$T/bob/box"
refused "Permission denied" as bob cat "$T/bob/box/one"
matches 'Lister' kmsfs principal show bob
matches 'bob' kmsfs principal list
works kmsfs umount "$T/bob"
works kmsfs principal delete bob
exits 1 "bob" kmsfs mount --principal bob "$T/bob"
exits 1 "last|AdministratorAccess" kmsfs principal delete admin

story "who is made again under the name of a deleted principal is somebody else"
guest=(--uid "$(uid_of bob)" --policy "$T/Lister.json")
works kmsfs principal create guest "${guest[@]}"
works sh -c "kmsfs --json principal show guest >$T/guest.json"
first=$(sed -n 's/.*"id": *"\(AIDA[A-Z2-7]*\)".*/\1/p' "$T/guest.json")
works kmsfs key create --alias guests --user guest
works kmsfs bucket create guests --sse aws:kms:alias/guests
echo '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::'"$account"':user/guest"},"Action":"s3:*","Resource":"arn:aws:s3:::guests/*"}}' >"$T/guests.json"
works kmsfs bucket policy guests "$T/guests.json"
works sh -c "echo welcome >$T/admin/guests/f"
mount_for guest "$T/bob"
prints welcome as bob cat "$T/bob/guests/f"
works kmsfs umount "$T/bob"
attempt kmsfs grant create alias/guests --grantee guest --operations DescribeKey
works kmsfs principal delete guest
matches "$first" kmsfs key policy alias/guests
matches "$first" kmsfs bucket policy guests
matches "$first" kmsfs grant list alias/guests
works kmsfs principal create guest "${guest[@]}"
lacks "user/guest" kmsfs key policy alias/guests
lacks "user/guest" kmsfs bucket policy guests
lacks "user/guest" kmsfs grant list alias/guests
mount_for guest "$T/bob"
refused "Permission denied" as bob cat "$T/bob/guests/f"
works kmsfs bucket policy guests "$T/guests.json"
refused "Permission denied" as bob cat "$T/bob/guests/f" # the key's policy still means the first guest
exits 1 "invalid principals: $first" sh -c "kmsfs key policy alias/guests >$T/old.json && kmsfs key policy alias/guests $T/old.json"
works sh -c "sed 's#$first#arn:aws:iam::$account:user/guest#' $T/old.json >$T/new.json && kmsfs key policy alias/guests $T/new.json"
prints welcome as bob cat "$T/bob/guests/f"
works kmsfs umount "$T/bob"

story "audit: everything is there, in order, and whole"
works kmsfs audit verify
works sh -c "kmsfs --json audit query >$T/events"
for name in CreateKey PutKeyPolicy CreateGrant RevokeGrant UpdateAlias DeleteAlias RotateKeyOnDemand ReEncrypt ScheduleKeyDeletion CancelKeyDeletion; do
  matches "\"eventName\": ?\"$name\"" cat "$T/events"
done
matches 'eventName' kmsfs --json audit tail
works kmsfs policy check "$T/console.json"
exits 1 "1 findings" sh -c "sed 's#kms:Encrypt#kms:Encrpyt#' $T/console.json >$T/typo.json && kmsfs policy check $T/typo.json"
matches 'did you mean kms:Encrypt' sh -c "kmsfs policy check $T/typo.json || true"
matches 'no principal arn:aws:iam::000000000000:user/eve' sh -c "sed 's#user/alice#user/eve#' $T/console.json | kmsfs policy check - --kind key || true"
matches 'bob|alice|keeper|gains|loses|no change' sh -c "sed 's#user/alice#user/power#' $T/console.json >$T/changed.json && kmsfs policy diff alias/with-policy $T/changed.json"

story "the schedule of rotation, the description, tags"
works kmsfs key create --alias kept --tag team=payroll
matches 'automatic: *false' kmsfs key rotation alias/kept
exits 1 "between 90 and 2560" kmsfs key rotation alias/kept --enable --period 89
exits 2 "goes with --enable" kmsfs key rotation alias/kept --period 100
matches 'period: *180 days' kmsfs key rotation alias/kept --enable --period 180
matches '"RotationPeriodInDays": ?180' kmsfs --json key rotation alias/kept
works kmsfs key rotate alias/kept
matches 'ON_DEMAND' kmsfs key rotation alias/kept
matches 'automatic: *false' kmsfs key rotation alias/kept --disable
works kmsfs key describe alias/kept "for the payroll"
matches 'for the payroll' kmsfs key show alias/kept
prints "team=payroll" kmsfs key tag alias/kept
works kmsfs key tag alias/kept stage=test --remove team
prints "stage=test" kmsfs key tag alias/kept
exits 1 "not authorized" as keeper kmsfs key rotation alias/kept
exits 1 "not authorized" as keeper kmsfs key tag alias/kept stage=mine

story "imported material: brought, expired by hand, and only the same brings the files back"
mine=$(kmsfs key create --external --alias mine)
matches PendingImport kmsfs key show "$mine"
head -c 32 /dev/urandom >"$T/material"
head -c 31 /dev/urandom >"$T/short"
head -c 32 /dev/urandom >"$T/another"
exits 2 "does not hold 32 bytes" kmsfs key import-material alias/mine "$T/short"
exits 1 "origin is AWS_KMS" kmsfs key import-material alias/kept "$T/material"
works kmsfs key import-material alias/mine "$T/material" --expires "$(date -u -d '+10 days' +%Y-%m-%dT%H:%M:%SZ)"
matches 'expires: *2' kmsfs key show alias/mine
works kmsfs bucket create imported --sse aws:kms:alias/mine
works sh -c "echo outside >$T/admin/imported/f"
works kmsfs key delete-material alias/mine
matches PendingImport kmsfs key show alias/mine
refused "Required key not available" cat "$T/admin/imported/f"
exits 1 "IncorrectKeyMaterial" kmsfs key import-material alias/mine "$T/another"
works sh -c "kmsfs key import-material alias/mine - <$T/material"
prints outside cat "$T/admin/imported/f"

story "a grant is retired by its token, or by who may retire it"
kmsfs --json grant create alias/kept --grantee keeper --operations DescribeKey --retiring alice \
  --context-subset department=hr >"$T/grant.json"
token=$(/usr/bin/python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["GrantToken"])' "$T/grant.json")
matches 'subset:department=hr' kmsfs grant list alias/kept
exits 1 "not authorized" as keeper kmsfs grant retire --token "$token"
works as alice kmsfs grant retire --token "$token"
prints "" kmsfs grant list alias/kept
grant=$(kmsfs grant create alias/kept --grantee keeper --operations DescribeKey,RetireGrant)
works as keeper kmsfs grant retire "$(kmsfs --json key show alias/kept | sed -n 's/.*"Arn": *"\([^"]*\)".*/\1/p')" "$grant"
prints "" kmsfs grant list alias/kept
exits 1 "InvalidGrantToken" kmsfs grant retire --token nonsense
