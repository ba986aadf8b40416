//! Builds of whole artifacts in data directories of their own. Uses `sqfstar` and
//! `unsquashfs` of squashfs-tools; touches no network.

#[cfg(test)]
mod artifacts;
#[cfg(test)]
mod kernels;
#[cfg(test)]
mod rootfs;
#[cfg(test)]
mod sample;
