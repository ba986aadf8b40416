//! Guests over byte streams: one that says whatever a script holds, and the real agent.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod host;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod sequence;
