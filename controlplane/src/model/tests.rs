use std::path::Path;

use super::*;

/// Every file in configs/.
fn shipped() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_shipped_configuration_loads() {
    let files = shipped();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let model = load(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(!model.tests.is_empty(), "{} has no tests", file.display());
        assert_eq!(model.digest.len(), 64);
    }
}
