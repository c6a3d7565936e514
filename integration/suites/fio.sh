# shellcheck shell=bash
# fio.sh: fio with verify=crc32c. What one job writes it reads back and checks; afterwards the other mount checks the files that were
# written once, as it finds them.

# fio_verified NAME ARGS...: one fio run in a directory of its own, with what all runs share.
fio_verified() {
  local name=$1 dir=suites/fio/$1
  shift
  mkdir -p "$A/$dir"
  LIMIT=600 works fio --name="$name" --directory="$A/$dir" --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --randrepeat=1 \
    --end_fsync=1 --group_reporting --output-format=terse "$@"
  case " $* " in
    *" --rw=write "* | *" --rw=randwrite "*) # every block once: what is there at the end follows from the seed
      LIMIT=600 works fio --name="$name" --directory="$B/$dir" --verify=crc32c --verify_only=1 --verify_fatal=1 --verify_state_save=0 --randrepeat=1 \
        --group_reporting --output-format=terse "$@"
      ;;
  esac
  rm -rf "${A:?}/$dir"
}

suite_fio() {
  story "fio: verify=crc32c, sequential, random and mixed, 4 KiB to 1 MiB, several jobs, O_DIRECT and mmap"
  local rw bs engine size=64m
  if [ "$LONG" = 0 ]; then
    fio_verified seq --rw=write --bs=1m --ioengine=psync --size=16m
    fio_verified rand --rw=randwrite --bsrange=4k-128k --ioengine=psync --size=8m --numjobs=3
    fio_verified mixed --rw=randrw --bs=4k --ioengine=psync --size=4m --numjobs=2
    fio_verified direct --rw=randrw --bs=16k --ioengine=libaio --iodepth=8 --direct=1 --size=8m
    fio_verified mmap --rw=randwrite --bs=4k --ioengine=mmap --size=8m --numjobs=2
    return
  fi
  for rw in write randwrite rw randrw; do
    for bs in --bs=4k --bs=16k --bs=64k --bs=256k --bs=1m --bsrange=4k-1m; do
      for engine in "--ioengine=psync" "--ioengine=psync --direct=1" "--ioengine=libaio --iodepth=16 --direct=1" "--ioengine=mmap"; do
        # shellcheck disable=SC2086 # word splitting is meant
        fio_verified "$rw" --rw=$rw $bs $engine --size=$size --numjobs=1
        # shellcheck disable=SC2086
        fio_verified "$rw" --rw=$rw $bs $engine --size=16m --numjobs=4
      done
    done
  done
  # Odd sizes, files that are written over several times, and one file that several jobs share.
  fio_verified odd --rw=randwrite --bsrange=512-70k --blockalign=512 --ioengine=psync --size=64m --numjobs=4
  fio_verified again --rw=randrw --bs=8k --loops=4 --ioengine=psync --size=16m --numjobs=4 --fsync=64
  fio_verified one-file --rw=randrw --bs=4k --ioengine=psync --filename=shared --size=16m --numjobs=4 --offset_increment=16m
}
