//! What clap cannot be told of flags, above all which mean nothing beside others: no flag is passed over in silence.

use std::collections::BTreeMap;
use std::ops::Deref;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// Arguments that fit each other.
pub(super) struct Checked<A>(pub(super) A);

pub(super) trait Check {
    /// What is wrong with them, and what was expected.
    fn check(&mut self, typed: &Typed) -> Result<(), String>;
}

/// The flags that stand on the command line, by the names of their arguments. What the environment says is for whichever verb
/// can use it; what somebody typed is meant.
pub(super) struct Typed(BTreeMap<String, String>);

impl Typed {
    fn among<A: Args>(matches: &ArgMatches) -> Self {
        let command = A::augment_args(Command::new(""));
        let is_typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let typed = command.get_arguments().filter(|argument| is_typed(argument.get_id().as_str()));
        let named = |argument: &clap::Arg| {
            let name = argument.get_long().map_or_else(|| argument.get_id().to_string(), |long| format!("--{long}"));
            (argument.get_id().to_string(), name)
        };
        Self(typed.map(named).collect())
    }

    /// The first of these that is typed, as in `--server`.
    pub(super) fn first_of(&self, ids: &[&str]) -> Option<&str> {
        ids.iter().find_map(|id| self.0.get(*id)).map(String::as_str)
    }

    /// The first flag of a group that is typed.
    pub(super) fn first_in<A: Args>(&self) -> Option<&str> {
        let command = A::augment_args(Command::new(""));
        let mut ids = command.get_arguments().map(|argument| argument.get_id().as_str());
        ids.find_map(|id| self.0.get(id)).map(String::as_str)
    }
}

impl<A> Deref for Checked<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0
    }
}

impl<A: Args + Check> Args for Checked<A> {
    fn group_id() -> Option<clap::Id> {
        A::group_id()
    }

    fn augment_args(command: Command) -> Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }
}

impl<A: Args + Check> FromArgMatches for Checked<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        // Whoever takes the values takes the matches away.
        let typed = Typed::among::<A>(matches);
        let mut args = A::from_arg_matches_mut(matches)?;
        args.check(&typed).map_err(|expected| Error::raw(ErrorKind::ArgumentConflict, expected))?;
        Ok(Self(args))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
