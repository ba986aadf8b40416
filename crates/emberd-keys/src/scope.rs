//! What a key permits: scopes, and roles, which are sets of scopes with a name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Defines the scopes, each with its name and its least role.
macro_rules! scopes {
    ($($(#[doc = $about:literal])+ $scope:ident = $name:literal of $role:ident,)+) => {
        /// Permission for a kind of requests.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scope {
            $($(#[doc = $about])+ $scope,)+
        }

        impl Scope {
            /// Every scope.
            pub const ALL: &[Self] = &[$(Self::$scope),+];

            /// Its name, such as `sandbox:read`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$scope => $name,)+
                }
            }

            /// The least role that has the scope.
            pub fn role(self) -> Role {
                match self {
                    $(Self::$scope => Role::$role,)+
                }
            }
        }
    };
}

scopes! {
    /// Show what the daemon is and how much of it is in use.
    DaemonRead = "daemon:read" of Viewer,
    /// Have the daemon create no more sandboxes.
    DaemonWrite = "daemon:write" of Operator,
    /// Show sandboxes, what they use, and their console logs.
    SandboxRead = "sandbox:read" of Viewer,
    /// Create sandboxes, and decide how long they live and what they reach.
    SandboxCreate = "sandbox:create" of User,
    /// Run code in sandboxes, and use their files, processes, contexts and ports.
    SandboxUse = "sandbox:use" of User,
    /// Delete sandboxes.
    SandboxDelete = "sandbox:delete" of User,
    /// Show images.
    ImageRead = "image:read" of Viewer,
    /// Build and remove images.
    ImageWrite = "image:write" of Operator,
    /// Show templates.
    TemplateRead = "template:read" of Viewer,
    /// Build and remove templates, from which everybody's sandboxes are restored.
    TemplateWrite = "template:write" of Operator,
    /// Follow the daemon's events.
    EventsRead = "events:read" of Viewer,
    /// Read the daemon's metrics.
    MetricsRead = "metrics:read" of Viewer,
    /// Everything, with the sandboxes of everybody.
    Admin = "admin" of Admin,
}

impl Scope {
    /// Reads one scope, or all of a group, such as `sandbox:*`.
    ///
    /// # Errors
    /// [`UnknownScope`].
    pub fn matching(text: &str) -> Result<Vec<Self>, UnknownScope> {
        let group = text.strip_suffix('*').filter(|group| group.ends_with(':'));
        let is_meant = |scope: &Self| match group {
            Some(group) => scope.name().starts_with(group),
            None => scope.name() == text,
        };
        let meant: Vec<_> = Self::ALL.iter().copied().filter(is_meant).collect();
        if meant.is_empty() { Err(UnknownScope(text.to_owned())) } else { Ok(meant) }
    }
}

/// The text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope `{0}`: one of {names}, or a group such as sandbox:*", names = names())]
pub struct UnknownScope(String);

fn names() -> String {
    Scope::ALL.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let scope = Self::ALL.iter().copied().find(|scope| scope.name() == text);
        scope.ok_or_else(|| de::Error::custom(UnknownScope(text)))
    }
}

/// A set of scopes with a name. Each role has the scopes of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Shows, and changes nothing.
    Viewer,
    /// Works with its own sandboxes.
    User,
    /// Prepares what sandboxes are made from.
    Operator,
    /// Does everything, with the sandboxes of everybody.
    Admin,
}

impl Role {
    /// Every role, least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::User, Self::Operator, Self::Admin];

    /// Its name, such as `viewer`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Its scopes.
    pub fn scopes(self) -> ScopeSet {
        Scope::ALL.iter().copied().filter(|scope| scope.role() <= self).collect()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let role = Self::ALL.into_iter().find(|role| role.name() == text);
        role.ok_or(UnknownRole)
    }
}

/// The text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is viewer, user, operator or admin")]
pub struct UnknownRole;

/// Some scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScopeSet(u16);

impl ScopeSet {
    /// Whether `scope` is permitted. [`Scope::Admin`] permits everything.
    pub fn permits(self, scope: Scope) -> bool {
        self.0 & (bit(scope) | bit(Scope::Admin)) != 0
    }

    /// The scopes of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The scopes that are in it, in their usual order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.0 & bit(*scope) != 0)
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | bit(scope)))
    }
}

fn bit(scope: Scope) -> u16 {
    1 << scope as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_one_by_one_and_by_group() {
        for scope in Scope::ALL {
            assert_eq!(Scope::matching(scope.name()), Ok(vec![*scope]));
            let json = serde_json::to_string(scope).unwrap();
            assert_eq!(serde_json::from_str::<Scope>(&json).unwrap(), *scope);
        }
        let image = vec![Scope::ImageRead, Scope::ImageWrite];
        assert_eq!(Scope::matching("image:*"), Ok(image));
        for wrong in ["", "*", ":*", "sandbox", "sandbox:", "sandbox*", "Admin", "sandbox:read "] {
            let error = Scope::matching(wrong).unwrap_err().to_string();
            assert!(error.contains("sandbox:read, ") && error.contains("admin"), "{error}");
        }
    }

    #[test]
    fn roles_grow_and_only_an_admin_is_one() {
        for roles in Role::ALL.windows(2) {
            let [less, more] = [roles[0].scopes(), roles[1].scopes()];
            assert_eq!(less.and(more), more);
            assert_ne!(less, more);
        }
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
            assert_eq!(role.scopes().permits(Scope::Admin), role == Role::Admin);
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn the_scope_admin_permits_everything_and_others_themselves() {
        for scope in Scope::ALL {
            assert!(ScopeSet::from_iter([Scope::Admin]).permits(*scope));
            let alone = ScopeSet::from_iter([*scope]);
            assert_eq!(alone.iter().collect::<Vec<_>>(), [*scope]);
            for other in Scope::ALL {
                assert_eq!(alone.permits(*other), scope == other || *scope == Scope::Admin);
            }
            assert!(!ScopeSet::default().permits(*scope));
        }
    }
}
