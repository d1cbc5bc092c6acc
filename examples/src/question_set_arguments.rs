//! The arguments that name the data sets of one table: an option for each of its rows.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use sgm::toxic_qa::datasets::{QUESTION_FORMATS, QuestionSet};

/// The options of the sets that list questions, one for each of [`QUESTION_FORMATS`].
#[derive(Debug)]
pub struct QuestionSetArguments(pub Vec<QuestionSet>);

impl Args for QuestionSetArguments {
    fn augment_args(command: Command) -> Command {
        QUESTION_FORMATS.iter().fold(command, |command, format| {
            let names = if format.has_images() { vec!["FILE", "IMAGES"] } else { vec!["FILE"] };
            let arg = Arg::new(format.name()).long(format.name()).help(format.about()).action(ArgAction::Append);
            command.arg(arg.num_args(names.len()).value_names(names).value_parser(value_parser!(PathBuf)))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for QuestionSetArguments {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let sets = QUESTION_FORMATS.iter().flat_map(|format| {
            let given = matches.get_occurrences::<PathBuf>(format.name()).into_iter().flatten();
            given.filter_map(move |mut paths| Some(QuestionSet::new(format, paths.next()?, paths.next().cloned().unwrap_or_default())))
        });
        Ok(Self(sets.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
