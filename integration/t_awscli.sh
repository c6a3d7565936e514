#!/usr/bin/env bash
# Debian's awscli, unchanged, against a store: access keys, the life of a key, policies and grants, groups and boundaries,
# and what all of it does to files on mounts. The KMS socket, where the uid decides.
. "$(dirname "$0")/lib.sh"
needs_root
[ -x /usr/bin/aws ] || "$(dirname "$0")/../.ci/tools" test || skip_all "needs Debian's awscli"
unset "${!AWS_@}"

person alice
person bob
new_store --account 111122223333 --region eu-central-1
kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
kmsfs principal create bob --uid "$(uid_of bob)" --policy AmazonS3FullAccess
works kmsfs serve --kms-listen 127.0.0.1:0
KMS=$(kmsfs status | sed -n 's/^kms: *//p')
export KMS

# key_for NAME: an access key for that principal. aws_as NAME OPERATION...: aws kms by that principal.
key_for() {
  local AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
  eval "$(kmsfs principal access-key create "$1")"
  declare -gx "KEY_$1=$AWS_ACCESS_KEY_ID" "SECRET_$1=$AWS_SECRET_ACCESS_KEY"
}
aws_as() {
  local key=KEY_$1 secret=SECRET_$1
  shift
  AWS_ACCESS_KEY_ID=${!key} AWS_SECRET_ACCESS_KEY=${!secret} AWS_EC2_METADATA_DISABLED=true AWS_MAX_ATTEMPTS=1 \
    /usr/bin/aws --endpoint-url "$KMS" --region eu-central-1 --output text kms "$@" || return 1 # it ends with 254 and 255, which here stand for no refusal
}
# opened NAME FILE [OPTIONS...]: what decrypt makes of a ciphertext.
opened() {
  local who=$1 file=$2
  shift 2
  set -o pipefail
  aws_as "$who" decrypt --ciphertext-blob "fileb://$file" --query Plaintext "$@" | base64 -d
}
share aws_as opened
for who in admin alice bob; do key_for $who; done
: "${KEY_alice:?}" "${SECRET_alice:?}" "${KEY_bob:?}" "${SECRET_bob:?}"

story "create-key, create-alias: kmsfs and awscli see the same keys"
key=$(aws_as admin create-key --description payroll --tags TagKey=team,TagValue=pay --query KeyMetadata.KeyId)
arn=arn:aws:kms:eu-central-1:111122223333:key/$key
works aws_as admin create-alias --alias-name alias/pay --target-key-id "$key"
matches "$key" kmsfs key list
prints "$arn" aws_as admin describe-key --key-id alias/pay --query KeyMetadata.Arn
prints "Enabled	payroll	CUSTOMER	AWS_KMS	SYMMETRIC_DEFAULT" aws_as admin describe-key --key-id "$key" \
  --query 'KeyMetadata.[KeyState,Description,KeyManager,Origin,KeySpec]'
prints "team	pay" aws_as admin list-resource-tags --key-id "$key" --query 'Tags[].[TagKey,TagValue]'
made=$(kmsfs key create --alias made-here)
prints "$made" aws_as admin list-aliases --query "Aliases[?AliasName=='alias/made-here'].TargetKeyId"
refused "AlreadyExistsException" aws_as admin create-alias --alias-name alias/pay --target-key-id "$made"
refused "Invalid keyId 'nonsense'" aws_as admin describe-key --key-id nonsense
refused 'Alias must start with the prefix "alias/"' aws_as admin create-alias --alias-name pay --target-key-id "$key"

story "encrypt, decrypt, generate-data-key, re-encrypt"
printf 'hello payroll' >"$T/plain"
sealed() { aws_as admin encrypt --key-id alias/pay --plaintext "fileb://$T/plain" --query CiphertextBlob "$@" | base64 -d; }
share sealed
sealed --encryption-context dept=pay >"$T/sealed"
prints "hello payroll" opened admin "$T/sealed" --encryption-context dept=pay
refused "InvalidCiphertextException" opened admin "$T/sealed" --encryption-context dept=other
refused "InvalidCiphertextException" opened admin "$T/sealed"
aws_as admin generate-data-key --key-id alias/pay --key-spec AES_256 --query '[Plaintext,CiphertextBlob]' >"$T/data-key"
cut -f2 "$T/data-key" | base64 -d >"$T/wrapped"
same "a data key has 32 bytes" 32 "$(cut -f1 "$T/data-key" | base64 -d | wc -c)"
same "and comes back from its ciphertext" "$(cut -f1 "$T/data-key")" "$(opened admin "$T/wrapped" | base64 -w0)"
aws_as admin re-encrypt --ciphertext-blob "fileb://$T/sealed" --source-encryption-context dept=pay --destination-key-id alias/made-here \
  --query CiphertextBlob | base64 -d >"$T/moved"
prints "hello payroll" opened admin "$T/moved"
prints "hello payroll" opened admin "$T/moved" --key-id alias/made-here
refused "IncorrectKeyException" opened admin "$T/moved" --key-id alias/pay

story "put-key-policy: who is not allowed is told why"
refused "AccessDeniedException" opened alice "$T/sealed" --encryption-context dept=pay
refused "is not authorized to perform: kms:Decrypt on resource: $arn because no identity-based policy allows the kms:Decrypt action" \
  opened alice "$T/sealed" --encryption-context dept=pay
cat >"$T/policy.json" <<'EOF'
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:root"}, "Action": "kms:*", "Resource": "*"},
  {"Sid": "use", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/alice"},
   "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*"], "Resource": "*"}]}
EOF
works aws_as admin put-key-policy --key-id "$key" --policy-name default --policy "file://$T/policy.json"
prints "hello payroll" opened alice "$T/sealed" --encryption-context dept=pay
matches '"Sid": "use"' aws_as admin get-key-policy --key-id "$key" --policy-name default --query Policy
refused "MalformedPolicyDocumentException" aws_as admin put-key-policy --key-id "$key" --policy-name default --policy '{"Version":"2012-10-17"}'
refused "AccessDeniedException" aws_as alice put-key-policy --key-id "$key" --policy-name default --policy "file://$T/policy.json"

story "create-grant, list-grants, revoke-grant"
refused "AccessDeniedException" opened bob "$T/sealed" --encryption-context dept=pay
grant=$(aws_as admin create-grant --key-id "$key" --grantee-principal arn:aws:iam::111122223333:user/bob --operations Decrypt \
  --constraints 'EncryptionContextSubset={dept=pay}' --query GrantId)
prints "hello payroll" opened bob "$T/sealed" --encryption-context dept=pay
prints "$grant" aws_as admin list-grants --key-id "$key" --query 'Grants[].GrantId'
matches "$grant" kmsfs grant list alias/pay
works aws_as admin revoke-grant --key-id "$key" --grant-id "$grant"
refused "AccessDeniedException" opened bob "$T/sealed" --encryption-context dept=pay

story "enable-key-rotation, rotate-key-on-demand: old ciphertexts stay readable"
prints False aws_as admin get-key-rotation-status --key-id "$key" --query KeyRotationEnabled
works aws_as admin enable-key-rotation --key-id "$key"
prints True aws_as admin get-key-rotation-status --key-id "$key" --query KeyRotationEnabled
works kmsfs key rotate alias/pay
prints "hello payroll" opened alice "$T/sealed" --encryption-context dept=pay

story "files on a mount follow what awscli does to their key"
mount_for alice "$T/alice"
works as alice mkdir "$T/alice/box"
works as alice setfattr -n user.s3.sse -v aws:kms:alias/pay "$T/alice/box"
works as alice sh -c "echo wages >$T/alice/box/f"
works aws_as admin disable-key --key-id "$key"
refused "Key has been revoked" as alice cat "$T/alice/box/f"
refused "DisabledException" opened alice "$T/sealed" --encryption-context dept=pay
works aws_as admin enable-key --key-id "$key"
prints wages as alice cat "$T/alice/box/f"
prints PendingDeletion aws_as admin schedule-key-deletion --key-id "$key" --pending-window-in-days 7 --query KeyState
refused "$arn is pending deletion." opened alice "$T/sealed" --encryption-context dept=pay
refused "" as alice cat "$T/alice/box/f"
prints "$arn" aws_as admin cancel-key-deletion --key-id "$key"
prints Disabled aws_as admin describe-key --key-id "$key" --query KeyMetadata.KeyState
works aws_as admin enable-key --key-id "$key"
prints wages as alice cat "$T/alice/box/f"

story "groups and boundaries"
cat >"$T/use-pay.json" <<EOF
{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "$arn"}}
EOF
works kmsfs group create readers --policy "$T/use-pay.json"
refused "AccessDeniedException" opened bob "$T/sealed" --encryption-context dept=pay
works kmsfs group add readers bob
prints "hello payroll" opened bob "$T/sealed" --encryption-context dept=pay
matches "groups: +readers" kmsfs principal show bob
works kmsfs principal boundary bob AmazonS3FullAccess
refused "no permissions boundary allows the kms:Decrypt action" opened bob "$T/sealed" --encryption-context dept=pay
works kmsfs principal boundary --remove bob
prints "hello payroll" opened bob "$T/sealed" --encryption-context dept=pay
works kmsfs group remove readers bob
refused "AccessDeniedException" opened bob "$T/sealed" --encryption-context dept=pay
exits 1 "in use" kmsfs group delete readers
works kmsfs group detach readers use-pay
works kmsfs group delete readers

story "access keys: the secret counts, and only while the key is active"
right=$SECRET_alice
export SECRET_alice=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
refused "InvalidSignatureException" aws_as alice list-keys
export SECRET_alice=$right
works kmsfs principal access-key deactivate alice "$KEY_alice"
refused "UnrecognizedClientException" opened alice "$T/sealed" --encryption-context dept=pay
matches "$KEY_alice +Inactive" kmsfs principal access-key list alice
works kmsfs principal access-key activate alice "$KEY_alice"
prints "hello payroll" opened alice "$T/sealed" --encryption-context dept=pay
refused "not authorized to perform: iam:CreateAccessKey" as alice kmsfs principal access-key create admin
works kmsfs principal access-key delete alice "$KEY_alice"
refused "UnrecognizedClientException" aws_as alice list-keys
matches "\"accessKeyId\":\"$KEY_bob\"" kmsfs --json audit query
lacks "$SECRET_bob" cat "$T/store/daemon.log"

story "the KMS socket in the store: the uid decides, as for every command"
cat >"$T/kms-call.py" <<'EOF'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
body = sys.argv[3]
s.sendall((f"POST / HTTP/1.1\r\nHost: kms\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.1\r\n"
           f"X-Amz-Target: TrentService.{sys.argv[2]}\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
answer = b""
while chunk := s.recv(65536):
    answer += chunk
print(json.loads(answer.split(b"\r\n\r\n", 1)[1]))
EOF
socket_call() { /usr/bin/python3 "$T/kms-call.py" "$T/store/kms.sock" "$@"; }
share socket_call
matches "KeyMetadata" socket_call DescribeKey '{"KeyId":"alias/pay"}'
matches "user/bob is not authorized to perform: kms:DescribeKey" as bob bash -c 'socket_call DescribeKey "{\"KeyId\":\"alias/pay\"}"'
matches "CiphertextBlob" as alice bash -c 'socket_call GenerateDataKey "{\"KeyId\":\"alias/pay\",\"KeySpec\":\"AES_256\"}"'

story "nobody listens who was not asked to, and not to the world"
stop_daemon
refused "not a loopback address" kmsfs serve --kms-listen 0.0.0.0:0
within 10 no_daemon
works kmsfs serve
lacks "kms:" kmsfs status
refused "Could not connect" aws_as admin list-keys
matches "$key" socket_call ListKeys '{}'
