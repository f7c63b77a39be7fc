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
fn every_shipped_configuration_loads_and_passes_its_tests() {
    let files = shipped();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let model = load(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(!model.tests.is_empty(), "{} has no tests", file.display());
        let policy = model.compile().unwrap();
        for result in model.run_tests(&policy) {
            assert_eq!(result.failure, None, "{}: {}", file.display(), result.test.name);
        }
    }
}
