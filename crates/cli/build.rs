//! Leaves the names of functions out of the binary: they are a fifth of it. `strip = "symbols"` of the profile would say the same, but Cargo does not
//! pass it on to a package with settings of its own (`[profile.release.package.bifocal]`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let of_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if of_release && std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
}
