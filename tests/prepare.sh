# Sourced by `demo` and `run`: what they need to build and to bring up a WordPress site, installed where it is missing.
# The caller has changed to the project's directory.

export PATH=$PATH:$HOME/.cargo/bin

prepare() { # PACKAGE…: those that the caller needs besides
	local packages=("$@")
	command -v cc >/dev/null || packages+=(gcc libc6-dev)
	if ! command -v cargo >/dev/null; then
		# Debian's own cargo is older than what the project needs; rustup brings one that is not. Debian 12 has no rustup.
		command -v apt-cache >/dev/null && apt-cache show rustup >/dev/null 2>&1 || {
			echo "${0##*/}: no cargo here: install Rust ($(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later) from https://rustup.rs, then try again" >&2
			exit 1
		}
		packages+=(rustup)
	fi
	tests/site/packages "${packages[@]}"
	# A rustup without a toolchain has a cargo that does nothing.
	cargo --version >/dev/null 2>&1 || rustup default stable
}
