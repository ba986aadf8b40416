# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: stages with their times, host packages, a Rust toolchain, images.
# Sets `repo` and `target_dir`, and moves to the repository's root.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo" || exit
target_dir=${CARGO_TARGET_DIR:-$repo/target}
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin

# How quickstart.sh, serve.sh and emberctl.sh build. EMBERD_PROFILE=release is what an installation
# has: optimised across crates, and a small agent.
case ${EMBERD_PROFILE:-quick} in
  quick) profile=quick agent_profile=quick-guest ;;
  release) profile=release agent_profile=guest ;;
  *) echo "error: EMBERD_PROFILE is $EMBERD_PROFILE, not quick or release" >&2 && exit 2 ;;
esac
bin_dir=$target_dir/$profile

# Builds binaries of the workspace. The packages are always these two: with others, cargo would
# build what they share anew, with other features.
build_binaries() { # BINARY...
  cargo build --profile "$profile" --locked -p emberd -p emberctl "${@/#/--bin=}" || {
    echo "error: the build failed, see above" >&2
    echo "hint: crates come from crates.io over the network; a build that is run again goes on" >&2
    return 1
  }
}

stage_started=
stage() { # TITLE: ends the previous stage and begins a new one
  end_stage
  stage_started=$SECONDS
  echo "==> $1"
}

end_stage() { # prints how long the stage took
  [[ -z $stage_started ]] || echo "    $((SECONDS - stage_started)) s"
  stage_started=
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# Installs missing host packages: one COMMAND:PACKAGE word for each.
install_packages() {
  local word missing=()
  for word; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${word%%:*}" >/dev/null || missing+=("${word#*:}")
  done
  [[ -e /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)
  ((${#missing[@]})) || return 0
  if ! command -v apt-get >/dev/null; then
    echo "error: install these packages (names as in Debian): ${missing[*]}" >&2
    return 1
  fi
  echo "    installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Packages for building and running emberd, besides Rust.
host_packages=(
  qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap sqfstar:squashfs-tools
  newuidmap:uidmap depmod:kmod dpkg-deb:dpkg zstd:zstd curl:curl cc:build-essential
  python3:python3 mke2fs:e2fsprogs
)

# Ensures that cargo is new enough for the workspace's rust-version.
install_rust() {
  local wanted version
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
  if [[ -n $version && $(printf '%s\n' "$wanted" "$version" | sort -V | head -n1) == "$wanted" ]]; then
    return 0
  fi
  echo "    installing Rust (found ${version:-none}, need $wanted)"
  if ! command -v rustup >/dev/null; then
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
      sh -s -- -y -q --profile minimal --default-toolchain stable
    hash -r
  fi
  rustup --quiet toolchain install stable --profile minimal
  export RUSTUP_TOOLCHAIN=stable
}

# Builds the kernel, the initramfs and the named packs with the given emberctl. Existing images are
# only verified.
build_images() { # EMBERCTL PACK...
  build_kernel_and_packs "$@" && build_initramfs "$1"
}

build_kernel_and_packs() { # EMBERCTL PACK...
  local emberctl=$1
  shift
  "$emberctl" image build kernel && "$emberctl" image build pack "$@"
}

build_initramfs() { # EMBERCTL
  EMBERCTL=$1 AGENT_PROFILE=$agent_profile rootfs/build.sh
}
