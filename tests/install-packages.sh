#!/bin/sh
# Installs the Debian packages that the tests want: the programs that they drive, what makes sound for
# training, and a compiler with Python's headers, for pyworld comes as source. This is the one list of them. Elsewhere than on Debian or Ubuntu, and where
# nothing may be installed, the tests that need a package are skipped and name it; with CI set they
# fail.
set -eu

packages="
ardour audacity chromium dbus ffmpeg libxml2-utils lua5.4 pipewire pipewire-jack strace wireplumber xvfb
zam-plugins
g++ python3-dev
csound-soundfont espeak-ng festival festvox-kallpc16k festvox-us-slt-hts flite
fluid-soundfont-gm fluidsynth libopenmpt0 musescore-general-soundfont-small timgm6mb-soundfont
"

command -v apt-get >/dev/null || { echo "no apt-get: tests that need packages are skipped" >&2; exit 0; }
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "neither root nor sudo; not installed:$missing" >&2; exit 0; }
    root="sudo"
fi
install="$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"
# The lists may be absent or stale: fetch them, and once more if a download has moved.
$root apt-get update -q || echo "apt-get update failed; trying with the lists at hand" >&2
# shellcheck disable=SC2086
$install $missing || { $root apt-get update -q && $install --fix-missing $missing; }
