# shellcheck shell=bash
# syscalls.sh: libfuse's own test_syscalls, from the source package fuse3: as root, as an ordinary user, and so that each effect is
# looked at through the other mount.
suite_syscalls() {
  local dir=suites/syscalls
  story "libfuse's test_syscalls"
  # shellcheck disable=SC2016 # the program expands it
  built fuse3 test/test_syscalls.kmsfs sh -c 'echo "#define HAVE_COPY_FILE_RANGE 1" >test/fuse_config.h &&
    gcc -O1 -w -D_GNU_SOURCE -Itest -o test/test_syscalls.kmsfs test/test_syscalls.c' || return
  works "$SOURCE/test/test_syscalls.kmsfs" "$A/$dir"
  works "$SOURCE/test/test_syscalls.kmsfs" "$A/$dir" ":$B/$dir" -u # -u: unlinked files stay open until the end
  install -m 755 "$SOURCE/test/test_syscalls.kmsfs" "$T/test_syscalls"
  mkdir "$A/$dir/mine" && chown 65534:65534 "$A/$dir/mine"
  works setpriv --reuid=65534 --regid=65534 --clear-groups "$T/test_syscalls" "$A/$dir/mine" ":$B/$dir/mine"
}
