#!/usr/bin/env bash
# Wrong input for every command: the documented exit status (see kmsfs --help), a message that names what
# is wrong, a hint where one helps, no change, no panic.
. "$(dirname "$0")/lib.sh"
needs_root
person alice

story "no store yet"
exits 1 "no .*store" kmsfs status
exits 1 "hint: .*kmsfs init" kmsfs bucket list
exits 1 "no .*store" kmsfs mount "$T/nowhere"
exits 1 "no .*store" kmsfs key create
refused "No such file" stat "$T/store"

story "wrong usage is exit status 2"
exits 2 "frobnicate" kmsfs frobnicate
exits 2 "nosuchflag" kmsfs --nosuchflag status
exits 2 "" kmsfs mount
exits 2 "" kmsfs umount
exits 2 "" kmsfs mount a b
exits 2 "" kmsfs bucket create
exits 2 "" kmsfs bucket encryption
exits 2 "" kmsfs key show
exits 2 "" kmsfs key schedule-deletion
exits 2 "" kmsfs alias create only-a-name
exits 2 "" kmsfs grant create alias/x
exits 2 "" kmsfs principal create
exits 2 "" kmsfs principal attach admin
exits 2 "" kmsfs why
exits 2 "" kmsfs unlock add
exits 2 "" kmsfs key schedule-deletion alias/x --days many
exits 2 "account" kmsfs init --account 12
exits 2 "account" kmsfs init --account 12345678901x
exits 2 "region" kmsfs init --region 'no region'
exits 1 "name" kmsfs init --admin 'no spaces please'
refused "No such file" stat "$T/store"

story "init"
works kmsfs init
exits 1 "already|exists" kmsfs init
works mkdir "$T/full"
works touch "$T/full/file"
exits 1 "not empty" kmsfs --store "$T/full" init
prints file ls -A "$T/full"
exits 1 "not a directory" kmsfs --store "$T/full/file" init
exits 1 "passphrase" kmsfs --store "$T/s2" init --passphrase-file "$T/absent"
: >"$T/empty"
exits 1 "passphrase" kmsfs --store "$T/s2" init --passphrase-file "$T/empty"

# What the state is, for saying that nothing changed.
state() {
  kmsfs bucket list
  kmsfs principal list
  kmsfs key list
  kmsfs alias list
  kmsfs bucket show keep
  kmsfs key show alias/keep
  kmsfs key policy alias/keep
  kmsfs principal show admin
}
share state
works kmsfs bucket create keep
works kmsfs key create --alias keep
works kmsfs principal create alice --uid "$(uid_of alice)"
works state
cp "$T/.io/out" "$T/state"

story "principals and policies"
exits 1 "alice.*taken" kmsfs principal create alice
exits 1 "name" kmsfs principal create 'two words'
exits 2 "empty" kmsfs principal create ''
exits 1 "NoSuchPolicy" kmsfs principal create bob --policy NoSuchPolicy
exits 1 "NoSuchPolicy" kmsfs principal attach alice NoSuchPolicy
exits 1 "nobody-here" kmsfs principal attach nobody-here AmazonS3FullAccess
exits 1 "AmazonS3FullAccess" kmsfs principal detach alice AmazonS3FullAccess
exits 1 "nobody-here" kmsfs principal show nobody-here
exits 1 "nobody-here" kmsfs principal delete nobody-here
exits 1 "nobody-here" kmsfs --as nobody-here bucket list
exits 1 "nobody-here" kmsfs mount --principal nobody-here "$T"
exits 1 "minus-one" kmsfs principal create carol --uid minus-one
echo '{"Version":"2012-10-17","Statement":[{"Effect":"Perhaps","Action":"s3:*","Resource":"*"}]}' >"$T/perhaps.json"
echo '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}' >"$T/cut.json"
echo '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringAlmost":{"a":"b"}}}]}' >"$T/operator.json"
echo '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/alice"},"Action":"kms:*","Resource":"*"}]}' >"$T/lockout.json"
exits 1 "Effect" kmsfs principal create bob --policy "$T/perhaps.json"
exits 1 "JSON|unexpected end" kmsfs principal attach alice "$T/cut.json"

story "keys, aliases, grants"
exits 1 "Invalid keyId|not found|does not exist" kmsfs key show no-such-key
exits 1 "does not exist" kmsfs key show 12345678-1234-1234-1234-123456789012
exits 1 "alias/absent" kmsfs key disable alias/absent
exits 1 "alias/absent" kmsfs key policy alias/absent
exits 1 "JSON|Malformed|unexpected end" kmsfs key policy alias/keep "$T/cut.json"
exits 1 "Effect" kmsfs key policy alias/keep "$T/perhaps.json"
exits 1 "StringAlmost" kmsfs key policy alias/keep "$T/operator.json"
exits 1 "will not allow you to update" kmsfs key policy alias/keep "$T/lockout.json"
exits 1 "absent.json" kmsfs key policy alias/keep "$T/absent.json"
exits 1 "JSON|Malformed|empty" sh -c "kmsfs key policy alias/keep - </dev/null"
exits 1 "exist" kmsfs key create --alias keep
exits 1 "alias" kmsfs key create --alias aws/mine
exits 1 "alias" kmsfs key create --alias 'bad alias!'
exits 1 "nobody-here" kmsfs key create --user nobody-here
exits 1 "Malformed|JSON|unexpected end" kmsfs key create --policy "$T/cut.json"
exits 1 "exist" kmsfs alias create keep "alias/keep"
exits 1 "absent" kmsfs alias update absent alias/keep
exits 1 "absent" kmsfs alias delete absent
exits 1 "pending deletion" kmsfs key cancel-deletion alias/keep
exits 2 "7 to 30" kmsfs key schedule-deletion alias/keep --days 3
exits 1 "nobody-here" kmsfs grant create alias/keep --grantee nobody-here --operations Decrypt
exits 1 "Fly" kmsfs grant create alias/keep --grantee alice --operations Fly
exits 1 "grant" kmsfs grant revoke alias/keep 0123456789

story "buckets"
exits 1 "exist" kmsfs bucket create keep
exits 1 "name" kmsfs bucket create UPPER
exits 1 "name" kmsfs bucket create a/b
exits 1 "aws:kmsx" kmsfs bucket create fresh --sse aws:kmsx
exits 1 "no-such-bucket" kmsfs bucket show no-such-bucket
exits 1 "no-such-bucket" kmsfs bucket delete no-such-bucket
exits 1 "no-such-bucket" kmsfs bucket encryption no-such-bucket AES256
exits 1 "rot13" kmsfs bucket encryption keep rot13
exits 1 "Effect" kmsfs bucket policy keep "$T/perhaps.json"
mount_for admin "$T/m"
works touch "$T/m/keep/f"
exits 1 "not empty" kmsfs bucket delete keep
works rm "$T/m/keep/f"

story "paths"
exits 1 "no such|not found|not exist" kmsfs why keep/absent-file
exits 1 "no-such-bucket|no such" kmsfs stat no-such-bucket/x
exits 2 "op" kmsfs why keep/x --op fly
exits 1 "absent" kmsfs policy check "$T/absent.json"
exits 1 "Effect" kmsfs policy check "$T/perhaps.json"

story "mounting"
exits 1 "no such file" kmsfs mount "$T/absent"
exits 1 "not a directory" kmsfs mount "$T/full/file"
exits 1 "mounted|busy" kmsfs mount "$T/m"
exits 1 "not.*mount" kmsfs umount "$T/full"
works mkdir "$T/m2"
for option in frob sse=rot13 sse=aws:kms:alias/absent errno=linux dev suid 'ro,frob' fd=3 rootmode=40000 user_id=0 fsname=x,context=y; do
  case $option in
    sse=aws:kms:alias/absent | dev | suid) continue ;; # legal for root, and a key may come later
  esac
  exits 2 "option|sse|errno" kmsfs mount -o "$option" "$T/m2"
  refused "" is_mounted "$T/m2"
done

story "the attributes on the mount"
works touch "$T/m/keep/f"
refused "Invalid argument" set_attr user.s3.sse rot13 "$T/m/keep/f"
refused "Invalid argument" set_attr user.s3.policy '{"Statement":' "$T/m/keep"
refused "" set_attr user.s3.policy '{}' "$T/m/keep/f"
refused "" set_attr user.s3.nonsense x "$T/m/keep/f"
refused "Required key not available" set_attr user.s3.sse aws:kms:alias/absent "$T/m/keep/f"
works rm "$T/m/keep/f"

story "nothing of all this has changed anything"
works state
attempt state
cp "$T/.io/out" "$T/state2"
works diff "$T/state" "$T/state2"

story "one store, one daemon"
exits 3 "already|another|in use|running|holds" timeout 20 kmsfs serve --foreground
works kmsfs status
works kmsfs umount "$T/m"
within 10 no_daemon

story "a wrong key, a store of another time"
works mv "$T/store/root.key" "$T/root.key"
exits 4 "unlock|root.key|key file" kmsfs bucket list
head -c 32 /dev/urandom >"$T/store/root.key"
chmod 600 "$T/store/root.key"
exits 4 "unlock|root.key|key" kmsfs bucket list
works mv "$T/root.key" "$T/store/root.key"
works kmsfs bucket list
works cp "$T/store/kmsfs.json" "$T/kmsfs.json"
/usr/bin/python3 - "$T/store/kmsfs.json" <<'EOF'
import json, sys
d = json.load(open(sys.argv[1]))
d["version"] = 9999
json.dump(d, open(sys.argv[1], "w"))
EOF
exits 6 "version" kmsfs bucket list
works cp "$T/kmsfs.json" "$T/store/kmsfs.json"
/usr/bin/python3 - "$T/store/kmsfs.json" <<'EOF'
import json, sys
d = json.load(open(sys.argv[1]))
d["incompatible"] = ["from-the-future"]
json.dump(d, open(sys.argv[1], "w"))
EOF
exits 6 "from-the-future" kmsfs bucket list
echo '{' >"$T/store/kmsfs.json"
exits 5 "kmsfs.json" kmsfs bucket list
works cp "$T/kmsfs.json" "$T/store/kmsfs.json"
matches keep kmsfs bucket list
