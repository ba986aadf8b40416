//! The daemon: its API and its process over fake microVMs, the house rules, and end to end.

#[cfg(test)]
mod api;
#[cfg(test)]
mod e2e;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod process;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod wait;
