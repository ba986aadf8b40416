//! Options from flags, variables and files; the reference page.

#[cfg(test)]
mod conversion;
#[cfg(test)]
mod file;
#[cfg(test)]
mod page;

#[cfg(test)]
use emberd_config::{Config, Given, Key, Origin, Problems, Surroundings};

/// A host of 8 GiB and its root user, without a configuration file.
#[cfg(test)]
fn surroundings() -> Surroundings {
    Surroundings {
        user_id: 0,
        runtime_dir: None,
        data_dir: Some(emberd_image::DataDir::new("/data")),
        config_file: None,
        host_memory_mib: 8192,
    }
}

/// The configuration with `options` given as flags.
#[cfg(test)]
fn config(options: &[(Key, &str)]) -> Result<Config, Problems> {
    let mut given = Given::default();
    for (key, value) in options {
        given.set(*key, value, Origin::Flag);
    }
    Config::new(given, &surroundings())
}
