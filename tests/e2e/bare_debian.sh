#!/usr/bin/env bash
# Goes through the README as a stranger would, on a Debian that holds nothing but Python, git and certificates:
#
#   sudo tests/e2e/bare_debian.sh FOLDER [PREPARE]
#
# FOLDER is made (about 4 GB) and kept for a look afterwards. PREPARE, a program, is called with the root of the new system
# before anything runs in it: for a network that needs certificates, name servers or apt settings of its own. What it
# puts into etc/profile.d/ there is read by every command. Needs root and Debian's package mmdebstrap.
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
[ $# -ge 1 ] && [ $# -le 2 ] && [ "$(id -u)" = 0 ] || usage
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)"
system="$(realpath -m "$1")"
prepare="${2:-}"

# A mount and process namespace of our own: whatever happens, its mounts and processes end with this script.
if [ "${BARE_DEBIAN_INSIDE:-}" != 1 ]; then
  BARE_DEBIAN_INSIDE=1 exec unshare --mount --pid --fork --kill-child -- "${BASH_SOURCE[0]}" "$@"
fi

said() { printf '%4d s  %s\n' "$SECONDS" "$1"; }
failed() { said "FAILED: $1"; exit 1; }
become() { exec env -i HOME=~root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 chroot "$system" bash -lc "$1"; }
inside() (become "$1")
answers() { inside "python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8000/health\", timeout=2)'" 2>/dev/null; }

[ ! -e "$system" ] || failed "$system exists already"
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,git,ca-certificates bookworm "$system"
[ -z "$prepare" ] || "$prepare" "$system"
mount -t proc proc "$system/proc"
mount --rbind /dev "$system/dev"
mount --rbind /sys "$system/sys"
mount --bind -o ro "$repository" "$system/mnt"
ip link set lo up 2>/dev/null || true
clone="/srv/a stranger's clone"
inside "git clone --quiet /mnt \"$clone\""
said "bare system with a fresh clone"

become "cd \"$clone\" && exec ./scripts/run-dev.sh" > "$system/run-dev.log" 2>&1 &
server=$!
until answers; do
  kill -0 "$server" 2>/dev/null || { cat "$system/run-dev.log"; failed "run-dev.sh ended"; }
  [ "$SECONDS" -lt 900 ] || { cat "$system/run-dev.log"; failed "run-dev.sh was not ready in 15 minutes"; }
  sleep 1
done
said "run-dev.sh is ready"

inside 'apt-get install --yes -qq pocketsphinx-testdata > /dev/null 2>&1'
# The README's own lines: from the recording's installation to the one that streams it.
command="$(sed -n '/^\.venv\/bin\/trio-stt transcribe --server/,/[^\\]$/p' "$repository/README.md")"
[ -n "$command" ] || failed "the README has no transcribe command"
text="$(inside "cd \"$clone\" && $command")"
echo "$text"
case "$text" in
  *dashwood*leisure*consider*) said "the README's transcribe command printed the words" ;;
  *) failed "these are not the words of the recording" ;;
esac

kill "$server"
wait "$server" || true
! answers || failed "the server outlived run-dev.sh"
said "run-dev.sh has ended, and the server with it"

inside "cd \"$clone\" && ./.ci/run" < /dev/null || failed ".ci/run"
said ".ci/run passed"
