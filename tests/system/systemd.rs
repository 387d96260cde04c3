//! The unit that users install.

use std::fs;
use std::path::Path;

use tagway_servers::systemd_analyze;
use tagway_tests::gateway::binary;
use tempfile::TempDir;

/// What the service is exposed to, of 100: the network, which it serves; and code that it writes, which strategies become.
const EXPOSURE: &str = "15";

#[test]
fn the_unit_is_sound_and_leaves_the_gateway_little() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/deploy/systemd/tagway.service");
    let unit = fs::read_to_string(unit).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tagway.service");
    // A unit is sound if what it starts is there.
    fs::write(&path, unit.replace("/usr/bin/tagway", binary().to_str().unwrap())).unwrap();
    let path = path.to_str().unwrap();
    let verified = systemd_analyze(&["verify", "--man=no", path]);
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    let threshold = format!("--threshold={EXPOSURE}");
    let judged = systemd_analyze(&["security", "--offline=yes", "--no-pager", &threshold, path]);
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}
