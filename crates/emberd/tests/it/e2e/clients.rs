//! Packages of other languages on real microVMs, by their own tests.

use super::Daemon;
use crate::clients::Python;

#[test]
fn the_python_package_and_its_documents_work_on_microvms() {
    let Some(daemon) = Daemon::instant(&["--pool-size", "off"]) else { return };
    let Some(python) = Python::find() else { return };
    python.passes(&["tests.test_microvm"], &[("EMBERD_ADDR", &daemon.authority)]);
    daemon.stop();
}
