# shellcheck shell=bash
# manifest.sh: what the kept store of the first format holds, in words. make.sh writes it down once; t_upgrade.sh compares.

# files_below DIR: every inode below DIR with what a user can see of it: times, content, attributes, lists, keys.
files_below() {
  /usr/bin/python3 - "$1" <<'END'
import hashlib, os, stat, sys

os.chdir(sys.argv[1])
paths = [os.path.join(d, n) for d, dirs, files in os.walk(".") for n in dirs + files]
kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "pipe"}
for path in sorted(paths):
    st = os.lstat(path)
    kind = kinds[stat.S_IFMT(st.st_mode)]
    line = f"{path} {kind} {st.st_mode & 0o7777:o} {st.st_uid}:{st.st_gid} modified {st.st_mtime_ns}"
    if kind != "directory":  # whose size and link count are the filesystem's business
        line += f" size {st.st_size} links {st.st_nlink}"
    print(line)
    if kind == "symlink":
        print("  target", os.readlink(path))
        continue
    if kind == "file":
        with open(path, "rb") as f:
            print("  sha256", hashlib.sha256(f.read()).hexdigest())
    names = sorted(n for n in os.listxattr(path) if n.startswith("user."))
    names += ["system.posix_acl_access", "system.posix_acl_default"]
    names += ["user.s3." + n for n in ("sse", "sse-kms-key-id", "bucket-key-enabled", "encryption-context", "quota")]
    for name in dict.fromkeys(names):
        try:
            print(" ", name, os.getxattr(path, name).hex() if name.startswith("system.") else os.getxattr(path, name).decode())
        except OSError:
            pass  # it has none
END
}

# fields NAME...: those fields of the JSON objects on stdin, one object a line. A later version may tell more of them.
fields() {
  /usr/bin/python3 -c '
import json, sys
got = json.load(sys.stdin)
for o in got if isinstance(got, list) else [got]:
    print("  " + " ".join(f"{k}={json.dumps(o.get(k), sort_keys=True)}" for k in sys.argv[1:]))' "$@"
}

# records: keys, aliases, policies, grants, principals, groups and buckets of the store in KMSFS_STORE.
records() (
  for key in $(kmsfs key list | cut -d' ' -f1 | sort); do
    printf 'key %s\n' "$key"
    kmsfs --json key show "$key" | fields KeyState KeyManager Origin Description Aliases CreationDate CurrentKeyMaterialId
    kmsfs key policy "$key" | sed 's/^/  /'
    kmsfs --json grant list "$key" | fields GrantId Name GranteePrincipal Operations
  done
  kmsfs alias list | sort
  for bucket in $(kmsfs bucket list); do
    printf 'bucket %s\n' "$bucket"
    kmsfs bucket encryption "$bucket" | sed 's/^/  /'
    kmsfs bucket policy "$bucket" 2>/dev/null | sed 's/^/  /'
  done
  printf 'principals\n'
  kmsfs --json principal list | fields name id arn uids policies groups boundary created
  printf 'groups\n'
  kmsfs --json group list | fields name members policies
)
