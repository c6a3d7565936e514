#!/usr/bin/env bash
# The story in the README, line by line as a person would type it. A line's "# → text" is what its output must hold; a line
# without one must simply succeed. Paths and the user bob are replaced by the test's own.
. "$(dirname "$0")/lib.sh"
needs_root
person bob

readme=$(dirname "$0")/../README.md
sed -n '/^<!-- story:begin/,/^<!-- story:end/p' "$readme" | grep -v -e '^<!--' -e '^```' >"$T/story"
[ -s "$T/story" ] || die "no story in README.md"

login=$(id -un "$(uid_of bob)")
adapt() {
  sed -E -e "s#/(var/lib/kmsfs|mnt|tmp/)#$T/\\1#g; s#$T/mnt#$T#g; s#$T/tmp/#$T/#g; s#$T/var/lib/kmsfs#$T/store#g" \
    -e "s|runuser -u bob --|as bob|g; s|id -u bob|id -u $login|g; s|chown bob |chown $login |g"
}

fail_text='Permission denied|Key has been revoked|kmsfs:'
while IFS= read -r line; do
  [ -n "$line" ] || {
    echo '#'
    continue
  }
  expected=$(sed -n 's/.*# → //p' <<<"$line")
  command=${line%% #*}
  command=$(adapt <<<"${command%"${command##*[![:space:]]}"}")
  if [[ $command == export\ * ]]; then
    eval "$command"
  elif [ -z "$expected" ]; then
    works bash -c "$command"
  elif [[ $expected =~ ^($fail_text)$ ]]; then
    refused "$expected" bash -c "$command"
  else
    matches "$expected" bash -c "$command"
  fi
done <"$T/story"
