# shellcheck shell=bash
# stress.sh: stress-ng's filesystem class, each stressor checking what it does (--verify).
#
# Left out by name, because no FUSE filesystem can be asked: binderfs (a filesystem of its own), fiemap (FUSE has no FS_IOC_FIEMAP),
# verity (fs-verity is ext4's, f2fs's and btrfs's).
suite_stress() {
  local no=binderfs,fiemap,verity seconds=10
  if [ "$LONG" = 0 ]; then
    story "stress-ng: some of the filesystem class, at once, for 3 seconds"
    LIMIT=120 works stress-ng --temp-path "$A/suites/stress" --verify --timeout 3s --rename 1 --link 1 --fallocate 1 --lockf 1 --xattr 1 \
      --copy-file 1 --dentry 1 --fpunch 1 --hdd 1
    return
  fi
  story "stress-ng: the filesystem class, $seconds seconds each"
  # Status 3 would say that a stressor found something it needs missing.
  LIMIT=1800 works stress-ng --class filesystem --exclude "$no" --sequential 2 --timeout "${seconds}s" --verify --temp-path "$A/suites/stress"
  story "stress-ng: many of it at once, for 2 minutes"
  LIMIT=900 works stress-ng --temp-path "$A/suites/stress" --verify --timeout 120s --rename 2 --link 2 --symlink 1 --fallocate 2 --lockf 2 \
    --lockofd 2 --flock 2 --xattr 1 --copy-file 2 --dentry 2 --dir 2 --fpunch 2 --hdd 2 --iomix 2 --getdent 1 --chmod 1 --utime 1
}
