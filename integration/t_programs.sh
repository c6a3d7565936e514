#!/usr/bin/env bash
# Programs that people use, run on the mount as on any disk: git, the Go compiler, SQLite, rsync, tar, vim, fio.
. "$(dirname "$0")/lib.sh"
LIMIT=240

new_store
mount_for admin "$T/m"
works mkdir "$T/m/work"
w=$T/m/work

story "git: clone, status, commit, gc, fsck"
git config --global user.name tester
git config --global user.email tester@example.org
git config --global init.defaultBranch main
git config --global --add safe.directory '*'
# A repository with some history to clone, made on the ordinary disk.
git init -q "$T/origin"
cp -a "$(go env GOROOT)/src/net" "$T/origin/net"
git -C "$T/origin" add -A
git -C "$T/origin" commit -q -m "first"
cp -a "$(go env GOROOT)/src/fmt" "$T/origin/fmt"
git -C "$T/origin" add -A
git -C "$T/origin" commit -q -m "second"
works git clone -q "$T/origin" "$w/clone"
prints "" git -C "$w/clone" status --porcelain
works sh -c "cd $w/clone && git mv fmt fmt2 && echo more >>net/net.go && git add -A && git commit -q -m third"
prints "" git -C "$w/clone" status --porcelain
prints 3 git -C "$w/clone" rev-list --count HEAD
works git -C "$w/clone" gc -q
works git -C "$w/clone" fsck --strict --no-progress
works git -C "$w/clone" checkout -q HEAD~1
works diff -r -x .git "$T/origin" "$w/clone"

story "go build, go test and a program run from the mount"
works mkdir "$w/hello"
cat >"$w/hello/main.go" <<'EOF'
package main

import "fmt"

func main() { fmt.Println("hello from a sealed disk") }
EOF
works sh -c "cd $w/hello && go mod init example.org/hello && go build -o hello ."
prints "hello from a sealed disk" "$w/hello/hello"
works sh -c "cd $w/hello && GOCACHE=$w/gocache go build -o hello2 . && ./hello2"
works sh -c "cd $w/hello && GOCACHE=$w/gocache go vet ./..."

story "SQLite: rollback journal and write-ahead log (which maps memory), two processes, integrity"
for mode in delete wal; do
  db=$w/$mode.db
  prints "$mode" sqlite3 "$db" "pragma journal_mode=$mode;"
  works sqlite3 "$db" "create table t(id integer primary key, v blob);
    with recursive n(i) as (select 1 union all select i+1 from n where i<5000) insert into t(v) select randomblob(200) from n;
    create index tv on t(v);"
  works sh -c "for i in 1 2 3 4; do
      sqlite3 $db '.timeout 30000' \"with recursive n(i) as (select 1 union all select i+1 from n where i<200) insert into t(v) select randomblob(300) from n\" &
      pids=\"\$pids \$!\"
    done; for p in \$pids; do wait \$p || exit 1; done"
  prints 5800 sqlite3 "$db" "select count(*) from t"
  works sqlite3 "$db" "delete from t where id % 3 = 0; vacuum;"
  prints ok sqlite3 "$db" "pragma integrity_check"
done

story "rsync: into the mount, again without work to do, with a deletion, and with checksums"
works rsync -a --delete "$(go env GOROOT)/src/net/" "$w/rs/"
prints "" rsync -a --delete --itemize-changes "$(go env GOROOT)/src/net/" "$w/rs/"
works rm -rf "$w/rs/http"
works rsync -a --inplace "$(go env GOROOT)/src/net/" "$w/rs/"
prints "" rsync -ac --delete --itemize-changes "$(go env GOROOT)/src/net/" "$w/rs/"

story "tar, with attributes"
works tar -C "$(go env GOROOT)/src" -cf "$w/net.tar" net
works mkdir "$w/untar"
works tar -C "$w/untar" -xf "$w/net.tar"
works diff -r "$(go env GOROOT)/src/net" "$w/untar/net"
works sh -c "cd $w && setfattr -n user.colour -v blue untar/net/net.go && tar --xattrs -cf x.tar untar/net/net.go && mkdir x && tar --xattrs -C x -xf x.tar"
prints blue attr user.colour "$w/x/untar/net/net.go"

story "vim and sed -i: write a new file, rename it over the old one"
printf 'one\ntwo\nthree\n' >"$w/text"
works vim -u NONE -es -c 'set nocompatible backup writebackup' -c '%s/two/TWO/' -c 'wq' "$w/text"
prints $'one\nTWO\nthree' cat "$w/text"
works sed -i s/three/THREE/ "$w/text"
prints $'one\nTWO\nTHREE' cat "$w/text"

story "fio: random writes of many sizes, verified after reading back"
works fio --name=v --filename="$w/fio" --size=32m --rw=randwrite --bsrange=512-64k --ioengine=psync --verify=crc32c \
  --do_verify=1 --verify_fatal=1 --end_fsync=1 --randrepeat=1 --randseed=7 --verify_state_save=0 --output-format=terse
works fio --name=m --filename="$w/fio-mmap" --size=16m --rw=randwrite --bs=4k --ioengine=mmap --verify=crc32c \
  --do_verify=1 --verify_fatal=1 --end_fsync=1 --verify_state_save=0 --output-format=terse
works fio --name=p --directory="$w" --numjobs=4 --size=8m --rw=randrw --bs=4k --ioengine=psync --verify=crc32c \
  --do_verify=1 --verify_fatal=1 --verify_state_save=0 --output-format=terse

story "all of it is there after a restart"
(cd "$w" && find . -type f ! -path './gocache/*' -exec sha256sum {} + | sort) >"$T/before"
stop_daemon
mount_for admin "$T/m"
(cd "$w" && find . -type f ! -path './gocache/*' -exec sha256sum {} + | sort) >"$T/after"
works diff "$T/before" "$T/after"
prints ok sqlite3 "$w/wal.db" "pragma integrity_check"
works kmsfs fsck --data
works git -C "$w/clone" fsck --strict --no-progress
