//! The names of token selections as text.

use std::fmt;
use std::str::FromStr;

use crate::{Error, TokenSelection};

impl fmt::Display for TokenSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TokenSelection {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|selection| selection.name() == name).ok_or_else(|| Error::UnknownTokens { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for selection in TokenSelection::ALL {
            assert_eq!(selection.to_string().parse::<TokenSelection>().unwrap(), selection);
            assert_eq!(serde_json::json!(selection), selection.name());
        }
        let message = "answer".parse::<TokenSelection>().unwrap_err().to_string();
        assert!(message.contains("`answer`") && message.contains("all, text, image, prompt, response, prompt-end, last"), "{message}");
    }
}
