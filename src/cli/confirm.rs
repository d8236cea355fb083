//! Confirmation by typing the name, on the terminal itself: a pipe can't confirm by accident.

use super::exit::{Exit, Failure};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};

/// Asks a person to type something.
pub trait Ask {
    /// The line typed; none: there is no terminal.
    fn ask(&self, question: &str) -> Option<String>;
}

/// The controlling terminal.
pub struct Terminal;

impl Ask for Terminal {
    fn ask(&self, question: &str) -> Option<String> {
        let mut tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        write!(tty, "{question} ").ok()?;
        let mut line = String::new();
        BufReader::new(tty).read_line(&mut line).ok()?;
        Some(line)
    }
}

/// Lets a person repeat `name`, unless it is confirmed already.
pub fn confirm(ask: &dyn Ask, name: &str, loss: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let question = format!("{loss}To confirm, type {name}:");
    match ask.ask(&question) {
        Some(typed) if typed.trim() == name => Ok(()),
        Some(_) => Err(Failure::new(Exit::Refused, "not confirmed; nothing was done")),
        None => Err(Failure::new(
            Exit::Usage,
            "there is no terminal to confirm on; add --yes if data may go away",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Types(Option<&'static str>);

    impl Ask for Types {
        fn ask(&self, _: &str) -> Option<String> {
            self.0.map(str::to_owned)
        }
    }

    #[test]
    fn only_the_name_confirms() {
        let exit = |typed, yes| confirm(&Types(typed), "web01", "", yes).map_err(|f| f.exit);
        assert_eq!(exit(Some("web01\n"), false), Ok(()));
        assert_eq!(exit(Some("yes\n"), false), Err(Exit::Refused));
        assert_eq!(exit(Some("\n"), false), Err(Exit::Refused));
        assert_eq!(exit(None, false), Err(Exit::Usage));
        assert_eq!(exit(None, true), Ok(()));
    }
}
