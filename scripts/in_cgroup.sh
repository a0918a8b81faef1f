#!/usr/bin/env bash
# Runs a command under a memory limit that counts its page cache too, and prints the peak on stderr afterwards.
# The page cache is dropped first, so that nothing of an earlier run is used for free. Needs root.
#
#   scripts/in_cgroup.sh CAP COMMAND...        CAP as 84MiB, 2.3GiB, 84MiB+5% or bytes
#
# Exit code: the command's (137 when the limit killed it). Works with cgroup v1 (memory controller) and v2.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
cap_bytes=$(python3 - "$1" <<'PYTHON'
import re, sys
match = re.fullmatch(r"([0-9.]+)\s*([KMGT]i?B|B|)(?:\+([0-9]+)%)?", sys.argv[1])
if not match:
    sys.exit(f"in_cgroup: {sys.argv[1]} is no size; write 84MiB or 2.3GiB")
unit = match[2] or "B"
base = 1024 if "i" in unit else 1000
print(int(float(match[1]) * base ** "BKMGT".index(unit[0]) * (100 + int(match[3] or 0)) / 100))
PYTHON
)
shift

name=dogstar-$$
if [[ -w /sys/fs/cgroup/memory/cgroup.procs ]]; then
  group=/sys/fs/cgroup/memory/$name
  limit_file=memory.limit_in_bytes
  swap_limit=("memory.memsw.limit_in_bytes" "$cap_bytes")
  peak_file=memory.max_usage_in_bytes
elif [[ -w /sys/fs/cgroup/cgroup.procs && -e /sys/fs/cgroup/cgroup.controllers ]]; then
  group=/sys/fs/cgroup/$name
  limit_file=memory.max
  swap_limit=("memory.swap.max" 0)
  peak_file=memory.peak
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
else
  echo "in_cgroup: no memory cgroup can be written here (is this root?)" >&2
  exit 2
fi

mkdir "$group"
# The last processes of the command may still be on their way out.
# shellcheck disable=SC2317  # called by the trap
remove_group() {
  local attempt
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    if rmdir "$group" 2>/dev/null; then return; fi
    sleep "0.$attempt"
  done
  echo "in_cgroup: could not remove $group" >&2
}
trap remove_group EXIT
echo "$cap_bytes" >"$group/$limit_file"
if [[ -w "$group/${swap_limit[0]}" ]]; then
  echo "${swap_limit[1]}" >"$group/${swap_limit[0]}" || true
fi

sync
if ! echo 3 >/proc/sys/vm/drop_caches 2>/dev/null; then
  echo "in_cgroup: warning: the page cache could not be dropped" >&2
fi

code=0
(
  echo "$BASHPID" >"$group/cgroup.procs"
  exec "$@"
) || code=$?

if [[ -r "$group/$peak_file" ]]; then
  peak=$(<"$group/$peak_file")
  python3 -c "print(f'# cgroup peak {$peak / 2**20:.1f} of {$cap_bytes / 2**20:.1f} MiB, page cache included')" >&2
fi
exit $code
