//! The fuzzers' seeds, and every input that once broke something, through the fuzzers' own bodies.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use std::path::Path;

#[test]
fn every_kept_input_is_handled() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, body) in bodies::ALL {
        let mut count = 0;
        for entry in std::fs::read_dir(seeds.join(name)).unwrap() {
            let path = entry.unwrap().path();
            // A panic names the file.
            eprintln!("{}", path.display());
            body(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no seeds for {name}");
    }
}
