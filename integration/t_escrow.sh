#!/usr/bin/env bash
# kmsfs key export and import: a key, rotated, put into escrow for a recipient of age and under a passphrase; destroyed; brought back into
# the same store, and into one restored from a backup in which it was forgotten. Who may, and who may not.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
here=$(cd "$(dirname "$0")/.." && pwd)

# An identity of age, as age-keygen makes it.
(cd "$here" && go run filippo.io/age/cmd/age-keygen) >"$T/identity" 2>"$T/.io/keygen" || die "$(cat "$T/.io/keygen")"
(cd "$here" && go run filippo.io/age/cmd/age-keygen) >"$T/other-identity" 2>/dev/null
recipient=$(sed -n 's/^# public key: //p' "$T/identity")
printf 'correct horse battery staple\n' >"$T/phrase"

new_store
key=$(kmsfs key create --alias escrowed)
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
works kmsfs principal attach alice AWSKeyManagementServicePowerUser
mount_for admin "$T/m"
works kmsfs bucket create box --sse aws:kms:alias/escrowed
echo "first material" >"$T/m/box/first"
works kmsfs key rotate "$key"
echo "second material" >"$T/m/box/second"

story "export: for a recipient, under a passphrase, into a file or a pipe"
works kmsfs key export alias/escrowed --recipient "$recipient" --output "$T/key.age"
prints "600" stat -c %a "$T/key.age"
matches 'BEGIN AGE ENCRYPTED FILE' cat "$T/key.age"
works sh -c "kmsfs key export $key --passphrase-file $T/phrase >$T/phrase.age"
works sh -c "kmsfs --json key export $key --recipient $recipient | /usr/bin/python3 -c 'import json,sys; assert json.load(sys.stdin)[\"Materials\"] == 2'"
exits 2 "is there already" kmsfs key export alias/escrowed --recipient "$recipient" --output "$T/key.age"
exits 2 "for recipients or under a passphrase" kmsfs key export alias/escrowed
exits 2 "for recipients or under a passphrase" kmsfs key export alias/escrowed --recipient "$recipient" --passphrase-file "$T/phrase"
exits 2 "no recipient of age" kmsfs key export alias/escrowed --recipient age1nonsense --output "$T/none.age"
same "nothing was made" no "$(yes_if [ -e "$T/none.age" ])"
exits 1 "NotFound|not found" kmsfs key export alias/absent --recipient "$recipient"
attempt script -qec "kmsfs key export alias/escrowed --recipient $recipient" /dev/null
verdict "a terminal shows no key" "$([ "$status" -eq 2 ] && grep -q 'not for a terminal' "$T/.io/out" && ! grep -q 'BEGIN AGE' "$T/.io/out" && echo yes)" "a refusal"

story "who may: an administrator; using or managing keys is not enough; all of it is in the audit log"
exits 1 "not authorized to perform: kms:ExportKeyMaterial" as alice kmsfs key export "$key" --recipient "$recipient"
matches '"errorCode": ?"AccessDenied"' sh -c "kmsfs --json audit query --denied | grep ExportKeyMaterial"
same "three exports are in the log" 3 "$(kmsfs --json audit query --key "$key" | grep '"eventName":"ExportKeyMaterial"' | grep -vc errorCode)"
cp "$T/key.age" "$T/identity" "$T/home/alice" && chown "$(uid_of alice)" "$T/home/alice/key.age" "$T/home/alice/identity"
exits 1 "not authorized to perform: kms:ImportKeyMaterial" as alice kmsfs key import "$T/home/alice/key.age" --identity "$T/home/alice/identity"
echo '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:ExportKeyMaterial","Resource":"arn:aws:kms:us-east-1:000000000000:key/'"$key"'"}}' >"$T/Keeper.json"
works kmsfs principal attach alice "$T/Keeper.json"
works as alice sh -c "kmsfs key export $key --recipient $recipient >$T/home/alice/own.age"
works kmsfs principal detach alice Keeper

story "wrong uses of import"
exits 2 "with an identity or a passphrase" kmsfs key import "$T/key.age"
exits 4 "cannot be opened with this" kmsfs key import "$T/key.age" --identity "$T/other-identity"
exits 4 "cannot be opened with this" kmsfs key import "$T/key.age" --passphrase-file "$T/phrase"
exits 1 "not a key in escrow" kmsfs key import "$T/phrase" --identity "$T/identity"
exits 4 "malformed" kmsfs key import "$T/key.age" --identity "$T/phrase"
matches 'has all of it already' kmsfs key import "$T/key.age" --identity "$T/identity"

story "the key is destroyed, and with it what lies under it; escrow brings both back"
works kmsfs backup "$T/backup"
cp -p "$T/store/root.key" "$T/root.key"
works kmsfs backup forget-key "$T/backup" "$key"
kmsfs umount "$T/m" && stop_daemon
mv "$T/store" "$T/first"
works kmsfs restore --key-file "$T/root.key" "$T/backup"
mount_for admin "$T/m"
refused "Required key not available" cat "$T/m/box/first"
refused "Required key not available" sh -c "echo x >$T/m/box/third"
works kmsfs key import "$T/phrase.age" --passphrase-file "$T/phrase"
prints "first material" cat "$T/m/box/first"
prints "second material" cat "$T/m/box/second"
matches "Enabled" kmsfs key show "$key"
works kmsfs alias create escrowed "$key"
works sh -c "echo 'third' >$T/m/box/third"
prints third cat "$T/m/box/third"
matches "box/first" kmsfs key files "$key"
matches '"eventName":"ImportKey"' sh -c "kmsfs --json audit query --key $key"
stop_daemon
matches 'result: +clean' kmsfs fsck --data
mount_for admin "$T/m"
prints "first material" cat "$T/m/box/first"

story "into another store: only one of the same account and region"
KMSFS_STORE=$T/same works kmsfs init
KMSFS_STORE=$T/same works kmsfs key import "$T/key.age" --identity "$T/identity"
KMSFS_STORE=$T/same matches "$key" kmsfs key list
KMSFS_STORE=$T/abroad works kmsfs init --account 999999999999
KMSFS_STORE=$T/abroad exits 1 "this store's account is 999999999999" kmsfs key import "$T/key.age" --identity "$T/identity"

story "no secret is anywhere in clear"
secret=$(sed -n 's/^AGE-SECRET-KEY-1//p' "$T/identity")
same "neither in logs nor in the stores" "" "$(grep -rlaE "$secret|correct horse|kmsfs key escrow" "$T/store" "$T/same" "$T/first" "$T/backup")"
