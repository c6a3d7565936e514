#!/usr/bin/env bash
# demo.sh up|down DIR: a store in DIR, two principals with a mount each, two buckets and a key; and lines to try.
# up may be repeated; what is there already is left as it is. down unmounts and removes DIR.
set -eu
cd "$(dirname "$0")/.."
action=${1:?up or down}
dir=$(realpath -m "${2:-demo}")
kmsfs=$PWD/bin/kmsfs
export KMSFS_STORE=$dir/store
unset KMSFS_PRINCIPAL
shown=$(realpath -m --relative-base="$PWD" "$dir")

mounted() {
  awk -v d="$1" '$5 == d {found = 1} END {exit !found}' /proc/self/mountinfo
}

down() {
  [ -d "$dir" ] || return 0
  [ -e "$KMSFS_STORE/kmsfs.json" ] || {
    echo "demo: $shown holds no demo store; nothing done" >&2
    exit 1
  }
  "$kmsfs" stop 2>/dev/null || true
  # A command waits until the store is free: then the daemon has really ended.
  "$kmsfs" key list >/dev/null || true
  local m
  for m in "$dir/user2" "$dir/admin"; do
    ! mounted "$m" || umount -l "$m"
  done
  rm -rf --one-file-system "$dir"
  echo "demo: $shown is gone"
}

# second_uid: whom user2 shall be. For root another real user, so that the kernel keeps the two apart: nobody.
second_uid() {
  local uid
  if [ "$(id -u)" -eq 0 ] && uid=$(id -u nobody 2>/dev/null) &&
    runuser -u nobody -- test -x "$dir" 2>/dev/null; then
    echo "$uid"
  else
    id -u
  fi
}

up() {
  mkdir -p "$dir"
  chmod 755 "$dir"
  # The go tool must not walk into the mounts: it stays out of other modules.
  echo 'module demo' >"$dir/go.mod"
  local uid
  uid=$(second_uid)
  if [ ! -e "$KMSFS_STORE/kmsfs.json" ]; then
    local said
    said=$("$kmsfs" init --admin admin 2>&1) || {
      echo "$said" >&2
      exit 1
    }
    "$kmsfs" principal create user2 --uid "$uid" --policy AmazonS3FullAccess >/dev/null
    "$kmsfs" key create --alias my-key --description "the demo's key" --admin admin >/dev/null
  fi
  mkdir -p "$dir/admin"
  mounted "$dir/admin" || "$kmsfs" mount --principal admin "$dir/admin"
  # A mount made by root for another user is entered by that user alone, so it must be his directory.
  mounted "$dir/user2" || {
    mkdir -p "$dir/user2"
    [ "$uid" = "$(id -u)" ] || chown "$uid:$(id -g "$uid")" "$dir/user2"
    "$kmsfs" mount --principal user2 "$dir/user2"
  }
  if [ ! -d "$dir/admin/reports" ]; then
    mkdir "$dir/admin/reports" "$dir/admin/payroll"
    echo "under SSE-S3" >"$dir/admin/reports/one.txt"
    touch "$dir/admin/reports/two.txt" "$dir/admin/reports/three.txt"
    setfattr -n user.s3.sse -v aws:kms "$dir/admin/reports/two.txt"
    setfattr -n user.s3.sse -v aws:kms:alias/my-key "$dir/admin/reports/three.txt"
    echo "under aws/s3" >"$dir/admin/reports/two.txt"
    echo "under my-key" >"$dir/admin/reports/three.txt"
    "$kmsfs" bucket encryption payroll aws:kms:alias/my-key >/dev/null
    echo "encrypted by the bucket's default" >"$dir/admin/payroll/july.csv"
  fi

  local who="" store="--store $shown/store"
  [ "$uid" = "$(id -u)" ] || who="runuser -u nobody -- "
  cat <<EOF

The store is $shown/store. Two principals look at it:
  $shown/admin   admin, AdministratorAccess
  $shown/user2   user2, AmazonS3FullAccess: every right on S3, none on KMS$([ -z "$who" ] || echo " (OS user nobody)")

Try:
  ls -l $shown/admin/reports
  getfattr -n user.s3.sse-kms-key-id $shown/admin/reports/three.txt
  ${who}ls -l $shown/user2/reports $shown/user2/payroll
  ${who}cat $shown/user2/reports/one.txt $shown/user2/reports/two.txt
  ${who}cat $shown/user2/reports/three.txt    # Permission denied
  bin/kmsfs $store why reports/three.txt --principal user2    # and this is why
  ${who}mv $shown/user2/reports/three.txt $shown/user2/reports/3.txt    # renaming needs no key
  bin/kmsfs $store audit query --denied

Let user2 use the key, then look again (take it back with: grant list alias/my-key, grant revoke alias/my-key ID):
  bin/kmsfs $store grant create alias/my-key --grantee user2 --operations Decrypt
  ${who}cat $shown/user2/payroll/july.csv

Disable it for everyone:
  bin/kmsfs $store key disable alias/my-key
  cat $shown/admin/payroll/july.csv    # Key has been revoked
  bin/kmsfs $store key enable alias/my-key

End it with: make demo-down
EOF
}

case $action in
  up) up ;;
  down) down ;;
  *)
    echo "usage: demo.sh up|down DIR" >&2
    exit 2
    ;;
esac
