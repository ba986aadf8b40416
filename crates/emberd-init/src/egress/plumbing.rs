//! What the guest's network needs so that every address is one of its own: addresses, routes and
//! the name of its resolver.
//!
//! Routes only deliver connections to this machine. Who gets them is decided by
//! [`super::capture`].

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use emberd_proto::egress::{EGRESS_GUEST, EGRESS_RESOLVER};

use super::netlink::Netlink;

/// Adds addresses and routes. A kernel without IPv6 gets those of IPv4 only.
///
/// # Errors
/// As the kernel answers.
pub fn route(netlink: &Netlink) -> io::Result<()> {
    netlink.add_address(EGRESS_RESOLVER)?;
    netlink.add_address(EGRESS_GUEST)?;
    netlink.route_everything_here(IpAddr::V4(EGRESS_GUEST))?;
    // A kernel may lack IPv6, or have it switched off.
    netlink.route_everything_here(IpAddr::V6(Ipv6Addr::LOCALHOST)).ok();
    Ok(())
}

/// Makes the file at `path` name the guest's resolver. An image may have a link there, to a file
/// of a resolver that does not run.
///
/// # Errors
/// If the file cannot be written.
pub fn name_resolver(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|known| known.is_symlink()) {
        fs::remove_file(path)?;
    }
    fs::write(path, format!("nameserver {EGRESS_RESOLVER}\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn resolver_is_named_in_place_of_a_dangling_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("resolv.conf"), dir.path().join("stub"));
        for prepare in [&|| fs::write(&path, "nameserver 192.0.2.1\nsearch x\n").unwrap(), &|| {
            fs::remove_file(&path).unwrap();
            symlink(&target, &path).unwrap();
        }] as [&dyn Fn(); 2]
        {
            prepare();
            name_resolver(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 198.18.0.1\n");
        }
        assert!(!target.exists());
    }
}
