#!/usr/bin/env bash
# The README's first commands on a bare Debian, made for it: what is missing there shows. Needs root
# and debootstrap. It installs what the README names and nothing else.
#
#     tests/bare_system.sh SUITE FOLDER [MIRROR]
#
# SUITE: bookworm (Python 3.11), trixie (3.13), forky (3.14) …; FOLDER: a new one, 3 GB, kept.
# MIRROR: where apt finds Debian, otherwise where it does on this machine. What this machine
# tells pip of its package index (proxy, certificate) holds in the bare system, too.
set -euo pipefail

# A second time, with mounts of its own: they end with it.
[ "${1:-}" = --mounted ] || exec unshare --mount "$0" --mounted "$@"
shift

repository=$(cd "$(dirname "$0")/.." && pwd)
suite=$1 root=$2
mirror=${3:-$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' | head -n 1)}
packages=$(sed -n 's/^apt install //p' "$repository/README.md")
commands=$(sed -n 's/^\(make [a-z]*\) .*/\1/p' "$repository/README.md" | head -n 2)

[ ! -e "$root" ] || { echo "$root is there already" >&2; exit 1; }
debootstrap --variant=minbase "$suite" "$root" "$mirror" sid > "$root.log"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"

# What pip is told here; the certificates under a name that no package of Debian's overwrites.
told() {
  python3 -m pip config list | sed -n "s/^[^.]*\.\($1\)='\(.*\)'/\1 = \2/p" | sort -u -k 1,1
}
cert=$(told cert)
{
  echo '[global]'
  told 'index-url\|proxy\|trusted-host'
  [ -z "$cert" ] || echo 'cert = /etc/pip-cert.pem'
} > "$root/etc/pip.conf"
[ -z "$cert" ] || cp -L "${cert#cert = }" "$root/etc/pip-cert.pem"

inside() {
  chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} \
    DEBIAN_FRONTEND=noninteractive bash -euc "$1"
}

inside "apt-get install -y $packages" >> "$root.log" 2>&1
git clone --quiet "$repository" "$root/root/center_loss_op"
TIMEFORMAT='%0R s'
while read -r command; do
  echo "$suite, $(inside 'python3 --version'): $command"
  time inside "cd ~/center_loss_op && $command"
done <<< "$commands"
