# shellcheck shell=bash
# Bash completion for kmsfs: install as /usr/share/bash-completion/completions/kmsfs, or source it.
# Commands and flags come from the program itself; buckets, keys, aliases and principals from the store, if it answers at once.

_kmsfs_ask() {
  timeout 2 kmsfs "$@" 2>/dev/null
}

_kmsfs() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words
  COMPREPLY=()
  case $prev in
    --store | --passphrase-file | --policy | --file)
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
      return
      ;;
    --principal | --as | --admin | --user | --grantee)
      words=$(_kmsfs_ask principal list)
      ;;
    --sse)
      words="AES256 aws:kms $(_kmsfs_ask alias list | sed -n 's/^\(alias\/[^ \t]*\).*/aws:kms:\1/p')"
      ;;
    *)
      # The program completes itself: the words so far and a flag that asks for candidates.
      words=$("${COMP_WORDS[@]:0:COMP_CWORD}" --generate-bash-completion 2>/dev/null)
      [[ $cur != -* ]] || words=$("${COMP_WORDS[@]:0:COMP_CWORD}" "$cur" --generate-bash-completion 2>/dev/null)
      ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
  [ "${#COMPREPLY[@]}" -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}
complete -o filenames -F _kmsfs kmsfs
