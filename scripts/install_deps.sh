#!/usr/bin/env bash
# Installs what Dogstar is built from: Debian 12 packages (Ubuntu 24.04 has them under the same names).
# Does nothing, and needs no root, when everything is there.
#
#   scripts/install_deps.sh           installs what is missing
#   scripts/install_deps.sh --check   only says what is missing (exit code 1 if anything is)
set -euo pipefail

# A library is there when its package is; a tool also when the command is found (it may come from elsewhere).
libraries=(
  liburing-dev libedit-dev libabsl-dev libfmt-dev libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libpcre2-dev libxxhash-dev
  libgtest-dev libgmock-dev libbenchmark-dev libjs-chart.js
)
tools=(
  "cmake cmake" "ninja-build ninja" "g++ g++" "pkg-config pkg-config" "ccache ccache" "clang-format clang-format"
  "python3 python3" "time /usr/bin/time"
)

package_is_installed() {
  [[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

list_missing() {
  local entry
  for entry in "${libraries[@]}"; do
    package_is_installed "$entry" || echo "$entry"
  done
  for entry in "${tools[@]}"; do
    command -v "${entry#* }" >/dev/null || echo "${entry% *}"
  done
  python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  {
    echo "install_deps: this system has no apt. Install these (names as in Debian 12) and configure with cmake:"
    printf '  %s\n' "${libraries[@]}" "${tools[@]% *}" python3-pip
  } >&2
  exit 1
fi

mapfile -t missing < <(list_missing)
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "install_deps: everything is there"
  exit 0
fi
echo "install_deps: missing: ${missing[*]}"
if [[ "${1:-}" == --check ]]; then
  exit 1
fi

as_root=()
if [[ "$(id -u)" -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: not root and no sudo; as root run: apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
install_missing() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 -qq "${missing[@]}"
}
# The package lists may be old or absent: try, refresh once, try again.
if ! install_missing >/dev/null 2>&1; then
  "${as_root[@]}" apt-get update -qq
  install_missing
fi

mapfile -t missing < <(list_missing)
if [[ ${#missing[@]} -gt 0 ]]; then
  echo "install_deps: still missing after the installation: ${missing[*]}" >&2
  exit 1
fi
echo "install_deps: done"
