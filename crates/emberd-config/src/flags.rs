//! Options as flags and `EMBERD_*` variables of a clap command.
//!
//! Values are kept as text: checks are made once, in the conversion to a [`crate::Config`].

use std::ffi::OsStr;
use std::marker::PhantomData;

use clap::builder::{PossibleValue, TypedValueParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use crate::definition::{Definition, Key};
use crate::definitions::DEFINITIONS;
use crate::form::Form;
use crate::given::{Given, Origin};

/// Options that a command takes.
pub trait Subset {
    /// Whether the command takes `key`.
    fn contains(key: Key) -> bool;
}

/// Every option.
#[derive(Debug, Clone, Copy)]
pub struct AllKeys;

impl Subset for AllKeys {
    fn contains(_key: Key) -> bool {
        true
    }
}

/// The options of `S` that were given as flags and variables. Flattened into a command, it
/// adds one argument for each.
#[derive(Debug, Clone)]
pub struct Flags<S> {
    /// The values that were given.
    pub given: Given,
    subset: PhantomData<fn() -> S>,
}

impl<S: Subset> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self { given: Given::default(), subset: PhantomData };
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for definition in keys::<S>() {
            let origin = match matches.value_source(definition.name) {
                Some(ValueSource::CommandLine) => Origin::Flag,
                Some(ValueSource::EnvVariable) => Origin::Variable,
                _ => continue,
            };
            let values = matches.get_raw(definition.name).into_iter().flatten();
            let values = values.map(OsStr::to_owned).collect();
            self.given.set_all(definition.key, values, origin);
        }
        Ok(())
    }
}

impl<S: Subset> clap::Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        command.args(keys::<S>().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn keys<S: Subset>() -> impl Iterator<Item = &'static Definition> {
    DEFINITIONS.iter().filter(|definition| S::contains(definition.key))
}

fn arg(definition: &'static Definition) -> Arg {
    let default = definition.default.text();
    let about = format!("{} [default: {default}]", definition.about);
    let mut arg = Arg::new(definition.name)
        .long(definition.name)
        .env(definition.variable())
        .value_name(definition.value_name)
        .hide(definition.hidden)
        .global(true)
        .help(about)
        .value_parser(ValueParser::new(Named(definition.form.possible())));
    arg = match &definition.form {
        Form::HostNames { .. } | Form::WebOrigins { .. } | Form::AccessRules { .. } => {
            arg.action(ArgAction::Append).value_delimiter(',')
        }
        Form::Words => arg.allow_hyphen_values(true),
        Form::Flag => arg.num_args(0..=1).default_missing_value("true"),
        // A negative number gets the message of its option.
        Form::Count { .. }
        | Form::CountOrOff { .. }
        | Form::SizeMib { .. }
        | Form::SizeMibOrOff { .. } => arg.allow_negative_numbers(true),
        _ => arg,
    };
    if definition.detail.is_empty() {
        arg
    } else {
        let (about, detail) = (definition.about, definition.detail);
        arg.long_help(format!("{about}\n\n{detail}\n\n[default: {default}]"))
    }
}

/// Takes any text, but names the possible values in help and completions: the conversion
/// reports a wrong one together with everything else that is wrong.
#[derive(Clone)]
struct Named(Vec<PossibleValue>);

impl TypedValueParser for Named {
    type Value = std::ffi::OsString;

    fn parse_ref(
        &self,
        _command: &Command,
        _arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        Ok(value.to_owned())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        if self.0.is_empty() { None } else { Some(Box::new(self.0.iter().cloned())) }
    }
}
