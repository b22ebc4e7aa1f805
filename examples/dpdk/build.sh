#!/bin/sh
# Builds the plugin for x86_64 and arm64 (or for the architectures named) into .cache/dpdk, out of Debian's packages, which
# are downloaded and extracted there. Nothing is installed, and no root is needed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${DPDK_CACHE:-$here/../../.cache/dpdk}
mkdir -p "$out" && out=$(cd "$out" && pwd)

# apt ARCH PROGRAM...: apt with a state of its own for one architecture, and the machine's sources and keys.
apt() {
	state=$out/$1/apt
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
	touch "$state/status"
	program=$2
	set -- "$@" -o "APT::Architecture=$1" -o "APT::Architectures=$1" -o "Dir::State::lists=$state/lists" \
		-o "Dir::Cache=$state/cache" -o "Dir::State::status=$state/status" -o APT::Sandbox::User=root -o Debug::NoLocking=1
	shift 2
	"$program" -q "$@" >>"$state/log" 2>&1 || { tail -5 "$state/log" >&2; echo "build.sh: $program failed" >&2; exit 1; }
}

# extract FOLDER DEB...
extract() {
	folder=$1
	shift
	mkdir -p "$folder"
	for deb in "$@"; do dpkg-deb -x "$deb" "$folder"; done
}

build() { # ARCH DEBIAN_ARCH TRIPLET EMULATOR
	root=$out/$2/root
	if ! [ -e "$root/done" ]; then
		echo "build.sh: DPDK for $1" >&2
		rm -rf "$root"
		apt "$2" apt-get update
		# libdpdk-dev depends on every library of DPDK; its headers and those that they include are enough.
		mkdir -p "$out/$2/debs"
		(cd "$out/$2/debs" && rm -f ./*.deb && apt "$2" apt-get download libdpdk-dev libjansson-dev libbsd-dev)
		mkdir -p "$root"
		for deb in "$out/$2/debs"/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" ./usr/include; done
		bpf=$(dpkg-deb -f "$out/$2/debs"/libdpdk-dev_*.deb Depends | tr ', ' '\n\n' | grep '^librte-bpf')
		apt "$2" apt-get -y --no-install-recommends --download-only install "$bpf" libjansson4
		extract "$root" "$out/$2/apt/cache/archives"/*.deb
		rm -rf "$out/$2/apt" "$out/$2/debs"
		touch "$root/done"
	fi
	libs=$(find "$root" -name '*.so.*' -path "*$3*" -exec dirname {} + | sort -u | paste -sd:)
	"$3-gcc" -O2 -Wall -Wextra -DALLOW_EXPERIMENTAL_API $5 -I"$root/usr/include/$3/dpdk" -I"$root/usr/include/dpdk" \
		-I"$root/usr/include/$3" -isystem "$root/usr/include" "$here/plugin.c" -o "$out/$1.bin" \
		"$(find "$root" -name 'librte_bpf.so.*' | head -1)" "$(find "$root" -name 'librte_eal.so.*' | head -1)" \
		"$(find "$root" -name 'libjansson.so.*' | head -1)" -Wl,--allow-shlib-undefined
	# The C library comes with the packages, so its own loader has to start the program.
	printf '#!/bin/sh\nexec %s "%s" --library-path "%s" "%s"\n' "$4" \
		"$(find "$root" -name 'ld-linux-*.so.*' -type f | head -1)" "$libs" "$out/$1.bin" >"$out/plugin-$1"
	chmod +x "$out/plugin-$1"
	echo "$out/plugin-$1"
}

emulator() { # the architecture's user-mode emulator, in Debian's static form, unless this machine is of that architecture
	[ "$(uname -m)" = aarch64 ] && return
	command -v qemu-aarch64-static qemu-aarch64 | head -1 | grep . && return
	own=$(dpkg --print-architecture)
	if ! [ -x "$out/qemu/usr/bin/qemu-aarch64-static" ]; then
		mkdir -p "$out/qemu"
		apt "$own" apt-get update
		(cd "$out/qemu" && apt "$own" apt-get download qemu-user-static)
		extract "$out/qemu" "$out/qemu"/*.deb
		rm -rf "$out/qemu"/*.deb "$out/$own/apt"
	fi
	echo "$out/qemu/usr/bin/qemu-aarch64-static"
}

for arch in ${*:-x86_64 arm64}; do
	case $arch in
	x86_64) build x86_64 amd64 x86_64-linux-gnu "" -march=corei7 ;;
	arm64) build arm64 arm64 aarch64-linux-gnu "$(emulator)" "" ;;
	*) echo "build.sh: $arch: x86_64 and arm64 are known" >&2; exit 2 ;;
	esac
done
