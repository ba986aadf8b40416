//! The file of keys, as writers and readers meet it.

#[cfg(test)]
mod file;
