//! `tagstream completions` and `tagstream man`: what shells and `man` know of the command line,
//! made from the command line itself.

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;
use tagstream_core::error::Exit;

/// Arguments of `tagstream completions`.
#[derive(Debug, Args)]
#[command(after_help = "Where shells look:\n  \
                  bash  ~/.local/share/bash-completion/completions/tagstream\n  \
                  zsh   a folder of $fpath, as _tagstream\n  \
                  fish  ~/.config/fish/completions/tagstream.fish")]
pub(super) struct CompletionsArgs {
    /// Whose completion script is printed.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `tagstream man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The folder that the pages are written to, one for each command; made if it is not there.
    /// `man -l FOLDER/tagstream-run.1` shows one.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

/// Prints the completion script of `command` for a shell.
pub(super) fn run(args: CompletionsArgs, mut command: Command) -> anyhow::Result<Exit> {
    // In memory first: writing to a pipe that nobody reads would panic in the library.
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    let written = std::io::stdout().write_all(&script);
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("printing the completion script")
        }
        _ => Ok(Exit::Success),
    }
}

/// Writes the pages of `command` and of all below it.
pub(super) fn write_pages(args: ManArgs, command: Command) -> anyhow::Result<Exit> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("writing manual pages to {}", folder.display()))?;
    eprintln!("manual pages in {}", folder.display());
    Ok(Exit::Success)
}
