//! SGR: colours and look of what is written from now on.

use vte::Params;

use super::super::colours::Colour;
use super::super::grid::{Look, Style};

impl Style {
    /// Takes the parameters in their order.
    pub fn select(&mut self, params: &Params) {
        let mut rest = params.iter();
        while let Some(param) = rest.next() {
            let [first, sub @ ..] = param else { continue };
            match first {
                0 => *self = Style::default(),
                1 => self.look.insert(Look::BOLD),
                2 => self.look.insert(Look::DIM),
                4 => self.look.set(Look::UNDERLINED, sub.first() != Some(&0)),
                7 => self.look.insert(Look::REVERSE),
                8 => self.look.insert(Look::HIDDEN),
                9 => self.look.insert(Look::STRUCK),
                21 => self.look.insert(Look::UNDERLINED),
                22 => self.look.remove(Look::BOLD | Look::DIM),
                24 => self.look.remove(Look::UNDERLINED),
                27 => self.look.remove(Look::REVERSE),
                28 => self.look.remove(Look::HIDDEN),
                29 => self.look.remove(Look::STRUCK),
                30..=37 => self.foreground = near(first - 30),
                40..=47 => self.background = near(first - 40),
                90..=97 => self.foreground = near(first - 90 + 8),
                100..=107 => self.background = near(first - 100 + 8),
                39 => self.foreground = Colour::Default,
                49 => self.background = Colour::Default,
                38 | 48 => {
                    // The colour's numbers follow, as parameters or as parts of this one.
                    let colour = if sub.is_empty() {
                        far(&mut rest.by_ref().map(|param| param.first().copied().unwrap_or(0)))
                    } else {
                        parts(sub)
                    };
                    match colour {
                        Some(colour) if *first == 38 => self.foreground = colour,
                        Some(colour) => self.background = colour,
                        None => {}
                    }
                }
                _ => {}
            }
        }
    }
}

/// One of the first sixteen.
fn near(index: u16) -> Colour {
    // Less than 16.
    Colour::Indexed(index as u8)
}

/// `5;index` or `2;red;green;blue`.
fn far(numbers: &mut dyn Iterator<Item = u16>) -> Option<Colour> {
    let mut byte = || numbers.next().map(|number| number.min(255) as u8);
    match byte()? {
        5 => Some(Colour::Indexed(byte()?)),
        2 => Some(Colour::Rgb(u32::from_be_bytes([0, byte()?, byte()?, byte()?]))),
        _ => None,
    }
}

/// `:5:index`, `:2:red:green:blue`, or `:2:space:red:green:blue`.
fn parts(sub: &[u16]) -> Option<Colour> {
    match sub {
        [2, _, rgb @ ..] if rgb.len() >= 3 => far(&mut [&[2], rgb].concat().into_iter()),
        _ => far(&mut sub.iter().copied()),
    }
}
