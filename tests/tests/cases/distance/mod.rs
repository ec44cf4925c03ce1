//! Clients at a distance: their round trips are no attack, and floods that use their addresses do not shut them out.

mod at_length;
mod calm;
mod floods;
