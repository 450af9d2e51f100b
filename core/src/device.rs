//! A registered device: how its output is to be read, and whether it may be used.

use crate::key::TdesKey;

/// The output format of a device: a setting of its registration, because most formats do not name themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The native frame of this project.
    Native,
    /// ID TECH, binary frames (original, enhanced, keyed, and the ViVOtech2 envelope around them).
    IdTechBinary,
    /// ID TECH, keyboard text (original, enhanced, keyed).
    IdTechKeyboard,
    /// MagTek MagneSafe V5, keyboard text.
    MagTekKeyboard,
    /// MagTek MagneSafe V5, USB HID report.
    MagTekHid,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Native, Self::IdTechBinary, Self::IdTechKeyboard, Self::MagTekKeyboard, Self::MagTekHid];

    /// The name used in configuration, on the wire and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::IdTechBinary => "idtech-binary",
            Self::IdTechKeyboard => "idtech-keyboard",
            Self::MagTekKeyboard => "magtek-keyboard",
            Self::MagTekHid => "magtek-hid",
        }
    }

    /// The inverse of [`Format::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// What must be known of a device to read its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Its output format.
    pub format: Format,
    /// The key its vendor output uses where the output does not say: `None` means the vendor's usual one
    /// (ID TECH: data request; MagTek MagneSafe: PIN variant). Native frames name their own.
    pub key: Option<TdesKey>,
}

/// Whether a device may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Known, not yet taken into use.
    Registered,
    /// In use.
    Active,
    /// Stopped for now: lost, tampered with, or quarantined after bad frames.
    Suspended,
    /// Gone for good.
    Retired,
}

/// A move the life of a device does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {} device cannot become {}; it can become: {}", from.name(), to.name(), names(from.next()))]
pub struct IllegalMove {
    /// Where it is.
    pub from: State,
    /// Where it should have gone.
    pub to: State,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Registered, Self::Active, Self::Suspended, Self::Retired];

    /// Its name in the registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Retired => "retired",
        }
    }

    /// The inverse of [`State::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Where it can go from here.
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Registered => &[Self::Active, Self::Retired],
            Self::Active => &[Self::Suspended, Self::Retired],
            Self::Suspended => &[Self::Active, Self::Retired],
            Self::Retired => &[],
        }
    }

    /// Moves, if the life of a device has that move.
    pub fn become_state(self, to: Self) -> Result<Self, IllegalMove> {
        if self.next().contains(&to) { Ok(to) } else { Err(IllegalMove { from: self, to }) }
    }
}

fn names(states: &[State]) -> String {
    match states {
        [] => "nothing".to_owned(),
        _ => states.iter().map(|state| state.name()).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_device_never_comes_back() {
        for to in State::ALL {
            assert!(State::Retired.become_state(to).is_err());
        }
    }

    #[test]
    fn an_illegal_move_names_the_legal_ones() {
        let error = State::Registered.become_state(State::Suspended).expect_err("not a move");
        assert_eq!(error.to_string(), "a registered device cannot become suspended; it can become: active, retired");
    }
}
