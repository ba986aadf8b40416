//! The daemon: its API over fake microVMs, its process, the house rules, and end to end.

#[cfg(test)]
mod e2e;
#[cfg(test)]
mod tidy;
