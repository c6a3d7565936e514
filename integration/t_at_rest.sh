#!/usr/bin/env bash
# No name, attribute, content, key or passphrase is in any byte of the store or in a line of the log, whatever happens to the daemon;
# nor in its memory when the mount is gone. Every such thing here is a marker of its own, and scan.py looks for all of them.
# shellcheck disable=SC2154 # marker assigns the variables
. "$(dirname "$0")/lib.sh"
needs_root
here=$(cd "$(dirname "$0")" && pwd)

random_hex() { od -An "-N$1" -tx1 /dev/urandom | tr -d ' \n'; }
common=k$(random_hex 8 | cut -c2-) # every marker's beginning: scan.py looks for that first

# marker NAME: a new text that is nowhere else. It is the variable NAME from then on, and in the list to look for.
marker() {
  declare -g "$1=$common${1//_/}$(random_hex 9)"
  printf '%s\t%s\n' "$1" "${!1}" >>"$T/${2:-markers}"
}
for m in file_name dir_name link_name link_target xattr_name xattr_value content_inline content_small content_large content_append \
  content_lost content_tmp context_name context_value passphrase second_phrase renamed removed; do
  marker "$m"
done
# What stays in the open store's memory as long as it is open: looked for in files alone.
for m in bucket_name alias_name description policy_sid principal_name group_name new_bucket; do marker "$m" documents; done
cat "$T/markers" "$T/documents" >"$T/all"

scan() { /usr/bin/python3 "$here/scan.py" "$@"; }
scan_log() { # the daemon's log may name principals and aliases, for operators
  mkdir -p "$T/logs" && cp "$T/store"/daemon.log* "$T/logs/" && dd if=/dev/zero of="$T/logs/filling" bs=1M count=1 status=none
  scan "$T/markers" "$T/logs"
}
kms_address() { sed -n 's/.*msg="kms endpoint" address=//p' "$T/store/daemon.log" | tail -n 1; }
export here T
share scan scan_log

story "the scanner finds what is there, in every form, across the pieces that it reads, and in names"
mkdir "$T/planted" "$T/planted/names"
python "planted" "$T/planted" "$file_name" "$xattr_value" <<'PY'
import base64, os, sys
top, name, text = sys.argv[1], sys.argv[2], sys.argv[3].encode()
forms = {"raw": text, "UTF-16LE": text.decode().encode("utf-16-le"), "UTF-16BE": text.decode().encode("utf-16-be"),
         "hex": text.hex().encode(), "HEX": text.hex().upper().encode()}
for shift in range(3):
    forms["base64+%d" % shift] = base64.b64encode(b"~" * shift + text + b"~")
for form, b in forms.items():
    with open(os.path.join(top, form), "wb") as f:
        f.write(b"z" * ((1 << 22) - len(b) // 2) + b + b"z" * 4096)
open(os.path.join(top, "names", name), "w").close()
PY
refused "" scan "$T/all" "$T/planted"
cp "$T/.io/out" "$T/found"
for form in raw UTF-16LE UTF-16BE hex HEX base64+0 base64+1 base64+2; do
  matches "^xattr_value, as ${form/+/\\+}, in .*/planted/${form/+/\\+} at 0" cat "$T/found"
done
matches "^file_name, as raw, in .*its name" cat "$T/found"
rm -r "$T/planted"

bucket=${bucket_name//_/}
printf '%s\n' "$passphrase" >"$T/pass1"
printf '%s\n' "$second_phrase" >"$T/pass2"
export KMSFS_PASSPHRASE_FILE=$T/pass1

story "a store, and everything that can be named or described"
works kmsfs init --passphrase-file "$T/pass1" --admin admin
works kmsfs serve --debug --kms-listen 127.0.0.1:0
works kmsfs unlock add passphrase --new-passphrase-file "$T/pass2"
works kmsfs principal create "$principal_name" --policy AmazonS3FullAccess
works kmsfs group create "$group_name"
works kmsfs key create --alias "${alias_name}" --description "$description"
printf '{"Version":"2012-10-17","Statement":[{"Sid":"%s","Effect":"Allow","Action":"s3:*","Resource":"*"}]}' "$policy_sid" >"$T/policy.json"
works kmsfs principal attach "$principal_name" "$T/policy.json"
works kmsfs bucket create "$bucket" --sse "aws:kms:alias/$alias_name"
works kmsfs bucket create "${new_bucket//_/}"
works kmsfs principal access-key create admin
access_id=$(grep -oE 'AK[A-Z0-9]{18}' "$T/.io/out") access_secret=$(grep -oE '[A-Za-z0-9+/]{40}' "$T/.io/out")
printf 'access_secret\t%s\n' "${access_secret:?}" >>"$T/all"
works mkdir "$T/m"
works kmsfs mount --principal admin "$T/m"

# fill MARKER BYTES: that many bytes of the marker, again and again.
fill() { yes "$1" | head -c "$2"; }
share fill

# use DIR: every kind of thing that leaves a trace.
use() {
  # shellcheck source=/dev/null
  . "$T/vars"
  mkdir -p "$1/$dir_name" && cd "$1/$dir_name" || return 1
  fill "$content_inline" 900 >"$file_name" && fill "$content_small" 20000 >"small$file_name" && fill "$content_large" 6000000 >"large$file_name"
  fill "$content_append" 5000 >>"large$file_name"
  setfattr -n "user.$xattr_name" -v "$xattr_value" "$file_name"
  setfattr -n user.s3.sse -v "aws:kms:alias/$alias_name;context=$(printf '{"%s":"%s"}' "$context_name" "$context_value" | base64 -w0)" "small$file_name"
  ln -sf "$link_target" "$link_name" && ln -f "$file_name" "hard$link_name"
  echo x >"$removed" && mv "$removed" "$renamed" && echo y >"$removed" && rm "$removed"
  seq 400 | while read -r i; do echo "$content_small" >"$file_name.$i"; done
  rm -f "$file_name".?
  getfattr -d "$file_name" && cat "$file_name" "large$file_name" | wc -c && ls -lR . && sync
}
# The daemon must not have them from its environment.
declare -p file_name dir_name link_name link_target xattr_name xattr_value content_inline content_small content_large content_append \
  content_lost context_name context_value renamed removed alias_name | sed "s/^declare -- //" >"$T/vars"
share use

story "used, killed in the middle of writing, and used again"
LIMIT=240 works use "$T/m/$bucket"
WHO=root python "a file without a name, a hole, a mapping" "$T/m/$bucket" "$content_tmp" <<'PY'
import mmap, os, sys
where, text = sys.argv[1], sys.argv[2].encode()
fd = os.open(where, os.O_TMPFILE | os.O_RDWR, 0o600)
os.write(fd, text * 100)
with open(where + "/mapped" + sys.argv[2], "w+b") as f:
    f.truncate(1 << 20)
    m = mmap.mmap(f.fileno(), 1 << 20)
    m[5000:5000 + len(text)] = text
    m.flush()
PY
(while :; do fill "$content_lost" 300000 >"$T/m/$bucket/$content_lost.$RANDOM"; done) 2>/dev/null &
writer=$!
within 20 sh -c "ls $T/m/$bucket/$content_lost.* | head -n 3 | grep -c . | grep -qx 3"
for p in $(daemons); do ! tr '\0' '\n' <"/proc/$p/cmdline" | grep -qx serve || kill -9 "$p"; done
kill "$writer" 2>/dev/null
wait "$writer" 2>/dev/null
within 60 no_daemon
works scan "$T/all" "$T/store"
works scan_log
works kmsfs serve --debug --kms-listen 127.0.0.1:0
works kmsfs mount --principal admin "$T/m"
LIMIT=240 works use "$T/m/${new_bucket//_/}"
works kmsfs audit verify
works kmsfs gc
works kmsfs fsck --data

story "the mount is gone, and the daemon goes on: nothing of it is left in memory"
daemon=""
for p in $(daemons); do ! tr '\0' '\n' <"/proc/$p/cmdline" | grep -qx serve || daemon=$p; done
# What KMS clients send and get, on both of its ways: calls.py writes it down for the scanner, a line each.
cat >"$T/calls.py" <<'PY'
import base64, datetime, hashlib, hmac, json, os, socket, sys
unix, tcp, key_id, secret, alias, common = sys.argv[1:]
def signed(target, body):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = {"content-type": "application/x-amz-json-1.1", "host": tcp, "x-amz-date": now, "x-amz-target": target}
    text = "POST\n/\n\n" + "".join("%s:%s\n" % h for h in sorted(headers.items())) + "\n" + ";".join(sorted(headers)) + "\n" + hashlib.sha256(body).hexdigest()
    scope = now[:8] + "/us-east-1/kms/aws4_request"
    text, key = "AWS4-HMAC-SHA256\n" + now + "\n" + scope + "\n" + hashlib.sha256(text.encode()).hexdigest(), ("AWS4" + secret).encode()
    for part in scope.split("/") + [text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return "X-Amz-Date: %s\r\nAuthorization: AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s\r\n" % (
        now, key_id, scope, ";".join(sorted(headers)), key.hex())
def call(way, operation, **args):
    target, body = "TrentService." + operation, json.dumps(args).encode()
    if way == "tcp":
        host, port = tcp.rsplit(":", 1)
        s, more = socket.create_connection((host, int(port))), signed(target, body)
    else:
        s, more = socket.socket(socket.AF_UNIX), ""
        s.connect(unix)
    s.sendall(("POST / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.1\r\nX-Amz-Target: %s\r\n%s"
               "Content-Length: %d\r\n\r\n" % (tcp, target, more, len(body))).encode() + body)
    got = b"".join(iter(lambda: s.recv(65536), b""))
    assert b" 200 " in got.split(b"\r\n")[0], got
    return json.loads(got.partition(b"\r\n\r\n")[2])
for way in ("unix", "tcp"):
    text = common + way + os.urandom(15).hex()
    blob = call(way, "Encrypt", KeyId="alias/" + alias, Plaintext=base64.b64encode(text.encode()).decode())["CiphertextBlob"]
    assert base64.b64decode(call(way, "Decrypt", CiphertextBlob=blob)["Plaintext"]).decode() == text
    print("kms_text_%s\t%s" % (way, text))
    for name, operation, args in (("data_key", "GenerateDataKey", {"KeySpec": "AES_256"}), ("long_key", "GenerateDataKey", {"NumberOfBytes": 64}),
                                  ("random", "GenerateRandom", {"NumberOfBytes": 32})):
        plain = call(way, operation, **args, **({} if name == "random" else {"KeyId": "alias/" + alias}))["Plaintext"]
        print("%s_%s\t%s\n%s_%s_raw\t%s" % (name, way, plain, name, way, base64.b64decode(plain).hex()))
PY
works /usr/bin/python3 "$T/calls.py" "$T/store/kms.sock" "$(kms_address)" \
  "$access_id" "$access_secret" "$alias_name" "$common"
cat "$T/.io/out" >>"$T/all"
cat "$T/.io/out" >>"$T/markers"
# The scanner finds what is there: while it is mounted, names and contents are in memory.
LIMIT=300 matches 'as raw, in' bash -c 'scan "$@" || true' bash "$T/markers" "pid:$daemon"
works kmsfs umount "$T/m"
within 60 grep -q 'memory tidied' "$T/store/daemon.log"
LIMIT=300 works scan "$T/markers" "pid:$daemon"

story "nor of what KMS clients sent and got, though no mount ends"
works /usr/bin/python3 "$T/calls.py" "$T/store/kms.sock" "$(kms_address)" "$access_id" "$access_secret" "$alias_name" "$common"
cp "$T/.io/out" "$T/calls"
cat "$T/calls" >>"$T/all"
calls=$(grep -c 'memory tidied' "$T/store/daemon.log")
within 60 sh -c "[ \$(grep -c 'memory tidied' $T/store/daemon.log) -gt $calls ]"
LIMIT=300 works scan "$T/calls" "pid:$daemon"

story "nor in any byte of the store, closed in order or killed"
works scan_log
works scan "$T/all" "$T/store"
works kmsfs stop
works scan "$T/all" "$T/store"

story "nor on a disk whose power goes in the middle of writing: neither in the store nor in what the disk keeps beside it"
if mkdir -p "$T/cut" "$T/disk" && truncate -s 1G "$T/cut/image" && mkfs.ext4 -q -F -E lazy_itable_init=1,nodiscard "$T/cut/image" &&
  mount -o loop "$T/cut/image" "$T/disk"; then
  mkdir -m 700 "$T/disk/store"
  export KMSFS_STORE=$T/disk/store
  works kmsfs init --passphrase-file "$T/pass1" --admin admin
  works kmsfs serve --debug
  works kmsfs key create --alias "$alias_name" --description "$description"
  works kmsfs bucket create "$bucket" --sse "aws:kms:alias/$alias_name"
  works kmsfs mount --principal admin "$T/m"
  LIMIT=240 works use "$T/m/$bucket"
  (while :; do fill "$content_lost" 300000 >"$T/m/$bucket/$content_lost.$RANDOM"; done) 2>/dev/null &
  writer=$!
  within 20 sh -c "ls $T/m/$bucket/$content_lost.* | head -n 3 | grep -c . | grep -qx 3"
  WHO=root python "the power goes" "$T/disk" <<'PY'
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack("I", 2))  # FS_IOC_SHUTDOWN, without the journal
PY
  for p in $(daemons); do ! tr '\0' '\n' <"/proc/$p/cmdline" | grep -qx serve || kill -9 "$p"; done
  kill "$writer" 2>/dev/null
  wait "$writer" 2>/dev/null
  within 60 no_daemon
  within 60 umount "$T/disk"
  works scan "$T/all" "$T/cut"
  works mount -o loop "$T/cut/image" "$T/disk"
  works kmsfs serve --debug
  works kmsfs fsck --data
  works kmsfs stop
  works umount "$T/disk"
  works scan "$T/all" "$T/cut"
else
  skip "the power goes" "no ext4 on a loop device here"
fi
