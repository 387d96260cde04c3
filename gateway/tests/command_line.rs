//! x
#[test]
fn x() { let _ = env!("CARGO_BIN_EXE_tagway"); }
