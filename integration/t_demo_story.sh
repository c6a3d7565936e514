#!/usr/bin/env bash
# The story that kmsfs exists for, told once from beginning to end.
#
# An administrator keeps three files in one bucket: one under SSE-S3, one under the AWS-managed key aws/s3, one under a
# customer key of his own, my-key. A second user has every right on S3 (AmazonS3FullAccess) and none on KMS. What may he do?
# Everything but read the third file; and who may read that one is decided by the policy of my-key alone.
. "$(dirname "$0")/lib.sh"
needs_root
person user2 # a real other user of this machine, with a uid of his own

story "1. A store, an administrator (root here), a second user with AmazonS3FullAccess; both mount it"
works kmsfs init --admin admin
works kmsfs principal create user2 --uid "$(uid_of user2)" --policy AmazonS3FullAccess
admin=$T/admin user2=$T/user2
mount_for admin "$admin"
mount_for user2 "$user2"
works mkdir "$admin/reports"
prints "reports" as user2 ls "$user2"

story "2. The administrator makes a customer key, my-key"
attempt kmsfs key create --alias my-key --description "for the story" --admin admin
key=$(cat "$T/.io/out")
same "key create prints the bare key id" yes "$([[ $key =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] && echo yes || echo "$key")"
matches "$key" kmsfs key show alias/my-key
matches "alias/my-key" kmsfs alias list

story "3. He uploads three files: SSE-S3 (the default of a new bucket), SSE-KMS with aws/s3, SSE-KMS with my-key"
works sh -c "echo 'under SSE-S3' >$admin/reports/one.txt"
works touch "$admin/reports/two.txt"
works set_attr user.s3.sse aws:kms "$admin/reports/two.txt"
works sh -c "echo 'under aws/s3' >$admin/reports/two.txt"
works touch "$admin/reports/three.txt"
works set_attr user.s3.sse aws:kms:alias/my-key "$admin/reports/three.txt"
works sh -c "echo 'under my-key' >$admin/reports/three.txt"
prints AES256 attr user.s3.sse "$admin/reports/one.txt"
prints aws:kms attr user.s3.sse "$admin/reports/two.txt"
prints aws:kms attr user.s3.sse "$admin/reports/three.txt"
refused "No such attribute" attr user.s3.sse-kms-key-id "$admin/reports/one.txt"
matches '^arn:aws:kms:us-east-1:000000000000:key/' attr user.s3.sse-kms-key-id "$admin/reports/two.txt"
prints "arn:aws:kms:us-east-1:000000000000:key/$key" attr user.s3.sse-kms-key-id "$admin/reports/three.txt"
matches 'alias/aws/s3' kmsfs alias list
prints "under my-key" cat "$admin/reports/three.txt"

story "4. user2 lists and stats all of them, sees their true sizes and how they are encrypted"
prints $'one.txt\nthree.txt\ntwo.txt' as user2 ls "$user2/reports"
prints 13 as user2 stat -c %s "$user2/reports/three.txt"
prints "arn:aws:kms:us-east-1:000000000000:key/$key" as user2 getfattr --absolute-names --only-values \
  -n user.s3.sse-kms-key-id "$user2/reports/three.txt"

story "5. He reads the first two. The third needs kms:Decrypt on my-key"
prints "under SSE-S3" as user2 cat "$user2/reports/one.txt"
prints "under aws/s3" as user2 cat "$user2/reports/two.txt"
refused "Permission denied" as user2 cat "$user2/reports/three.txt"
matches 'kms:Decrypt' kmsfs why reports/three.txt --principal user2 --op read

story "6. He sets metadata, renames and deletes all three alike: none of this asks KMS"
for n in one two three; do
  works as user2 setfattr -n user.note -v "seen by user2" "$user2/reports/$n.txt"
  prints "seen by user2" attr user.note "$admin/reports/$n.txt"
  works cp "$admin/reports/$n.txt" "$admin/reports/$n.spare"
  works as user2 mv "$user2/reports/$n.txt" "$user2/reports/$n.renamed"
  works as user2 rm "$user2/reports/$n.spare"
done
prints $'one.renamed\nthree.renamed\ntwo.renamed' ls "$admin/reports"
prints "under my-key" cat "$admin/reports/three.renamed"
refused "Permission denied" as user2 cat "$user2/reports/three.renamed"
works as user2 rm "$user2/reports/three.renamed"
refused "No such file" cat "$admin/reports/three.renamed"

story "7. my-key becomes the default of the bucket: a plain upload is encrypted with it"
works kmsfs bucket encryption reports aws:kms:alias/my-key
matches 'aws:kms' kmsfs bucket encryption reports
works sh -c "echo 'encrypted by default' >$admin/reports/four.txt"
prints "arn:aws:kms:us-east-1:000000000000:key/$key" attr user.s3.sse-kms-key-id "$admin/reports/four.txt"
refused "Permission denied" as user2 cat "$user2/reports/four.txt"
refused "Permission denied" as user2 sh -c "echo mine >$user2/reports/five.txt"
refused "No such file" stat "$admin/reports/five.txt"
note "What was there before keeps its key."
prints "under SSE-S3" as user2 cat "$user2/reports/one.renamed"

story "8. The administrator lets user2 use the key, by its policy alone"
kmsfs key policy alias/my-key >"$T/before.json"
/usr/bin/python3 - "$T/before.json" >"$T/with-user2.json" <<'EOF'
import json, sys
policy = json.load(open(sys.argv[1]))
policy["Statement"].append({
    "Sid": "user2 may use the key", "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::000000000000:user/user2"},
    "Action": ["kms:Decrypt", "kms:GenerateDataKey*"], "Resource": "*"})
print(json.dumps(policy))
EOF
works kmsfs key policy alias/my-key "$T/with-user2.json"
prints "encrypted by default" as user2 cat "$user2/reports/four.txt"
works as user2 sh -c "echo mine >$user2/reports/five.txt"
prints "mine" cat "$admin/reports/five.txt"

story "9. He takes it back: new opens fail at once, a file that user2 still has open within a second"
cat >"$T/holds.py" <<'EOF'
# Keeps a file open and reads it again and again until that fails, at most a minute; says when the last read began that was
# answered with content, and why the next was not.
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
os.pread(fd, 100, 0)
print("open", flush=True)
end = time.time() + 60
last = 0
while time.time() < end:
    began = time.time()
    try:
        os.pread(fd, 100, 0)
        last = began
    except OSError as e:
        print(last, e.strerror, flush=True)
        break
    time.sleep(0.02)
else:
    print("still readable", flush=True)
EOF
as user2 /usr/bin/python3 "$T/holds.py" "$user2/reports/four.txt" >"$T/held" &
holder=$!
eventually 60 grep -q open "$T/held"
works kmsfs key policy alias/my-key "$T/before.json"
taken=$(date +%s.%N)
refused "Permission denied" as user2 cat "$user2/reports/four.txt"
refused "Permission denied" as user2 cat "$user2/reports/five.txt"
wait "$holder"
prints "Permission denied" sh -c "tail -n 1 $T/held | cut -d' ' -f2-"
prints "in time" awk -v t="$taken" 'END {print ($1 - t < 1.5) ? "in time" : "late: " $1 - t}' "$T/held"
prints "encrypted by default" cat "$admin/reports/four.txt"

story "10. A disabled key refuses everyone, the administrator too; names and sizes stay"
works kmsfs key disable alias/my-key
refused "Key has been revoked" cat "$admin/reports/four.txt"
refused "Permission denied" as user2 cat "$user2/reports/four.txt"
refused "Key has been revoked" sh -c "echo x >$admin/reports/six.txt"
prints 21 stat -c %s "$admin/reports/four.txt"
works kmsfs key enable alias/my-key
prints "encrypted by default" cat "$admin/reports/four.txt"

story "11. Rotation: new files use new key material, old files stay readable"
old=$(attr user.s3.key-material-id "$admin/reports/four.txt")
works kmsfs key rotate alias/my-key
works sh -c "echo 'after rotation' >$admin/reports/seven.txt"
differs "the new file has other key material" "$old" "$(attr user.s3.key-material-id "$admin/reports/seven.txt")"
prints "$old" attr user.s3.key-material-id "$admin/reports/four.txt"
prints "encrypted by default" cat "$admin/reports/four.txt"
prints "after rotation" cat "$admin/reports/seven.txt"

story "12. The AWS-managed key cannot be edited by anyone"
kmsfs key policy alias/my-key >"$T/policy.json"
managed=$(attr user.s3.sse-kms-key-id "$admin/reports/two.renamed")
exits 1 "AccessDenied|not authorized|managed" kmsfs key policy "$managed" "$T/policy.json"
exits 1 "AccessDenied|not authorized|managed" kmsfs key disable "$managed"
exits 1 "AccessDenied|not authorized|managed" kmsfs key schedule-deletion "$managed" --days 7
prints "under aws/s3" as user2 cat "$user2/reports/two.renamed"

story "13. The audit log shows it all, allowed and denied"
events=$T/events.json
works sh -c "kmsfs --json audit query >$events"
for name in CreateKey CreateAlias GenerateDataKey Decrypt PutKeyPolicy DisableKey EnableKey RotateKeyOnDemand; do
  matches "\"eventName\": ?\"$name\"" cat "$events"
done
matches 'user/user2' kmsfs --json audit query --denied --principal user2
matches 'kms:Decrypt' kmsfs --json audit query --denied --principal user2
matches "key/$key" kmsfs --json audit query --key alias/my-key
matches 'DisabledException' kmsfs --json audit query --key alias/my-key
works kmsfs audit verify
lacks 'under my-key' cat "$events"

story "14. Nothing of it lies on the disk in clear, and all of it is there after a restart"
refused "" grep -rqF -e 'under my-key' -e 'encrypted by default' -e 'four.txt' "$T/store"
stop_daemon
mount_for admin "$admin"
prints "after rotation" cat "$admin/reports/seven.txt"
works kmsfs umount "$admin"
